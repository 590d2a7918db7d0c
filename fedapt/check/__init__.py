"""What a run would do, without training: the first round is planned and charged by the objects that a run uses.

`prediction.predict` is the door; `rules.RULES` is where a new warning goes.
"""
