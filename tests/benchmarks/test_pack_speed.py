"""The benchmark of packing runs, and packs what it made."""

from __future__ import annotations

from benchmarks import pack_speed


def test_it_prints_wall_and_cpu_time_of_both_ways(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pack_speed, "SHAPES", ((40, 64), (24, 40)))
    pack_speed.main(["--gigabytes", "0.00002", "--rounds", "1", "--folder", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["pack", "unpack"]
    assert "load of the machine" in lines[-1]
    assert not list(tmp_path.iterdir())
