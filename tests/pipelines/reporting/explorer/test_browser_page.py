"""Tests that programs which need a browser name the missing package."""

import pytest

from tests.benchmarks import report
from tests.pipelines.reporting.explorer.browser_page import INSTALL


def test_the_report_benchmark_without_chromium_names_the_package(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: needs Chromium; install it: {INSTALL}\n"
