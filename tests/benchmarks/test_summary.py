"""Figures in short."""

from __future__ import annotations

import json

from benchmarks import summary


def figure(rows, columns, share, ratio, backend="cuda", op="row_mask"):
    return {
        "op": op,
        "variant": "packed",
        "backend": backend,
        "rows": rows,
        "columns": columns,
        "milliseconds": 0.12345,
        "percent_of_floor": share,
        "times_baseline": ratio,
    }


def test_each_operation_and_backend_has_a_line_with_its_worst_shape(tmp_path, capsys):
    figures = [figure(64, 32, 50.4, 12.34), figure(8, 16, 60.0, 3.0), figure(8, 32, 20.0, 30.0)]
    figures += [figure(64, 32, 1.0, 1.0, backend="reference"), figure(8, 16, 7.0, None, op="gram_")]
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"figures": figures}))
    summary.main([str(file), "--rows", "64", "--columns", "32"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `row_mask` packed | cuda | 3 | 0.123 | 50% | 12.3 | 20% (8 x 32) | 3 (8 x 16) |",
        "| `gram_` packed | cuda | 1 |  |  |  | 7% (8 x 16) |  |",
    ]
