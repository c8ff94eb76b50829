from __future__ import annotations

import pytest

from trim_prune import TrimPruneError
from trim_prune.evaluation.protocol import differences, evaluation, require_alike, shared

PROTOCOL = {"data": "a.txt", "text_sha256": "12" * 32, "seqlen": 512}


def test_where_a_text_lies_is_no_difference():
    assert differences(PROTOCOL, PROTOCOL | {"data": "elsewhere/a.txt"}) == []
    require_alike(PROTOCOL, PROTOCOL | {"data": "elsewhere/a.txt"})


def test_every_difference_is_named():
    other = {"data": "a.txt", "text_sha256": "13" * 32, "seqlen": 2048, "bos": "no BOS"}
    named = ["text sha256 121212121212 and 131313131313", "seqlen 512 and 2048", "BOS rule none and no BOS"]
    assert differences(PROTOCOL, other) == named
    with pytest.raises(TrimPruneError, match=r"unlike protocols cannot be compared(.|\n)*seqlen 512 and 2048"):
        require_alike(PROTOCOL, other)


def test_only_what_two_share_is_side_by_side():
    def measured(value, **changes):
        return evaluation("perplexity", "pruned", "m", PROTOCOL | changes, {"perplexity": value})

    first = [measured(1.0), measured(2.0, seqlen=64)]
    second = [measured(3.0, seqlen=64), measured(4.0, seqlen=64, data="elsewhere"), measured(5.0, seqlen=8)]
    third = [measured(6.0) | {"kind": "speed"}, measured(7.0, seqlen=8)]
    found = shared({"a": first, "b": second, "c": third, "d": []})
    assert [{name: x["perplexity"] for name, x in group["results"].items()} for group in found] == [
        {"a": 2.0, "b": 4.0},
        {"b": 5.0, "c": 7.0},
    ]
