"""fedapt.data.extras: what is missing is said with the way to install it."""

import json

import pytest

from fedapt.data.extras import need, version
from fedapt.errors import SetupError


@pytest.mark.parametrize("ask", [lambda: need("no_such_module", "no-such", "drawing"), lambda: version("no-such", "drawing")])
def test_a_missing_package_is_named_with_the_way_to_install_it(ask):
    with pytest.raises(SetupError, match=r"drawing needs the package no-such, .* `pip install no-such`.*'fedapt\[sim\]'"):
        ask()


def test_what_is_installed_is_returned():
    assert need("json", "json", "reading") is json
    assert version("numpy", "arrays") == __import__("numpy").__version__
