import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedapt.record.totals import Cause
from fedapt.report.terminal import Display, origins
from tests.report.example import Example

RUN = Path("runs/noniid-20261120-181500")


class Terminal(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def played(file: io.StringIO, example: Example | None = None) -> str:
    (example or Example(rounds=4)).play(Display(file), RUN)
    return file.getvalue()


def final_screen(**changes: object) -> list[str]:
    file = io.StringIO()
    Display(file).finish(replace(Example(rounds=20).summary(), **changes), RUN)
    return file.getvalue().splitlines()


def test_the_run_folder_is_printed_first_and_alone() -> None:
    assert played(io.StringIO()).splitlines()[0] == str(RUN)


def test_a_pipe_gets_one_aligned_line_a_round_without_control_characters(monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = played(io.StringIO(), Example(rounds=12))
    lines = [line for line in output.splitlines() if re.match(r"\[ *\d+/12\]", line)]
    assert len(lines) == 12
    assert len({line.index("energy") for line in lines}) == 1
    assert lines[0].startswith("[ 1/12]  accuracy  10.0 %  loss  2.120  bits  5.9  energy  26.7 J  down 1.55 MB")
    assert not re.search(r"[^\n -~]", output)


def test_a_round_without_evaluation_has_dashes() -> None:
    file = io.StringIO()
    display = Display(file)
    display.start(RUN, 3, [])
    display.round_done(replace(Example().record(0), accuracy=None, loss=None))
    assert re.search(r"^\[1/3\]  accuracy       -  loss      -  bits", file.getvalue(), re.MULTILINE)


def test_a_terminal_gets_a_bar_with_live_figures_and_then_the_same_screen() -> None:
    output = played(Terminal())
    assert "round 4/4" in output
    assert re.search(r"47\.5 %  97\.0 J  12\.3 MB  6\.4 bits", output)
    assert "[1/4]" not in output
    assert output.rstrip().endswith("report.html")


def test_the_bar_does_not_pass_the_round_that_is_under_way() -> None:
    display = Display(Terminal())
    with display:
        display.start(RUN, 3, [])
        display.round_started(1, 2)
        display.client_done(5)
        assert display._progress.tasks[0].completed == 2


def test_an_error_takes_the_bar_away_and_shows_the_cursor_again() -> None:
    file = Terminal()
    with pytest.raises(KeyboardInterrupt), Display(file) as display:
        display.start(RUN, 3, [])
        raise KeyboardInterrupt
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_no_color_is_respected(monkeypatch) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    assert coloured.search(played(Terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(played(Terminal()))


def test_a_dumb_terminal_gets_lines(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "[1/4]" in played(Terminal())


def test_the_final_screen_fits_on_one_screen_with_many_groups_and_causes() -> None:
    summary = Example(rounds=20).summary()
    groups = [replace(summary.groups[0], group=f"a-device-with-a-long-name-{n}", energy_j=float(n)) for n in range(40)]
    causes = [Cause("failed", f"cause {n} " + "with many words " * 40, 3, (1, 5, 9)) for n in range(50)]
    lines = final_screen(groups=tuple(groups), causes=tuple(causes))
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any("(32 more groups)" in line for line in lines)
    assert any("46 more causes" in line for line in lines)


def test_an_ordinary_final_screen_has_at_most_24_lines_of_80_columns() -> None:
    lines = final_screen()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_final_screen_says_what_was_reached_spent_refused_and_where_it_is() -> None:
    screen = "\n".join(final_screen())
    assert "Accuracy  92.0 % global (best 92.0 % after 20 rounds), loss 0.235" in screen
    assert re.search(r"stm32h7 +19 +6\.5 +15\.2 J +17\.4 min +2\.46 MB +2\.46 MB +989 KiB", screen)
    assert "Costs     energy, time, memory modelled; bytes measured" in screen
    assert "Refused   9 attempts of clients 188, 192, 196: needs 1.31 MiB at 2 bits" in screen
    assert f"Report    {RUN}/report.html" in screen


def test_a_stopped_run_says_after_how_many_rounds() -> None:
    file = io.StringIO()
    display = Display(file)
    display.start(RUN, 9, [])
    display.finish(Example(rounds=4).summary(), RUN)
    assert "Stopped   after 4 of 9 rounds" in file.getvalue()


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_text_of_clients_is_shown_and_not_obeyed(make: type[io.StringIO]) -> None:
    output = played(make(), Example(rounds=8, odd="[red]\x1b[2J[/nope]"))
    assert "\x1b[2J" not in output
    assert "[red] [2J[/nope]the worker process" in output


def test_messages_and_warnings_are_plain_text() -> None:
    file = io.StringIO()
    display = Display(file)
    display.message("[bold]one[/bold]")
    display.warning("two\x1b[31m")
    assert file.getvalue() == "[bold]one[/bold]\nWarning: two [31m\n"


def test_an_encoding_without_a_character_does_not_end_the_run() -> None:
    bytes_out = io.BytesIO()
    file = io.TextIOWrapper(bytes_out, encoding="ascii")
    Display(file).message("Gerät")
    file.flush()
    assert bytes_out.getvalue() == b"Ger\\xe4t\n"


def test_a_run_in_which_nobody_took_part_has_no_costs() -> None:
    assert "Costs     none" in final_screen(sources={})


def test_mixed_origins_name_the_more_frequent_first() -> None:
    sources = {"energy": {"measured": 1, "modelled": 5}, "time": {"modelled": 6}, "memory": {}, "bytes": {"measured": 6}}
    assert origins(sources) == "energy modelled and measured; time modelled; bytes measured"


def test_the_screen_says_so_if_clients_were_trained_together_and_only_then() -> None:
    assert not any(line.startswith("Batched") for line in final_screen())
    assert any(line.startswith("Batched   7 of ") for line in final_screen(batched=7))


def test_the_screen_says_so_if_layers_were_computed_in_bf16() -> None:
    assert not any(line.startswith("Compute ") for line in final_screen())
    assert any(line.startswith("Compute ") and "bf16" in line for line in final_screen(compute="bfloat16"))


def test_the_screen_says_so_if_images_were_laid_out_otherwise() -> None:
    assert not any(line.startswith("Layout") for line in final_screen())
    assert any(line.startswith("Layout") and "channels" in line for line in final_screen(channels_last=True))
