"""SIPp as an independent party: started with a stock or an own scenario, bounded, its statistics read back."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from conformance.stage import Address, Process, Stage, StageError

SCENARIOS = Path(__file__).resolve().parent


class Sipp:
    """One SIPp process; ``scenario`` is a stock name (``uac``, ``uas``) or an XML file of this directory."""

    def __init__(
        self,
        stage: Stage,
        program: str,
        scenario: str,
        local: Address,
        remote: Address | None = None,
        more: Sequence[str] = (),
    ) -> None:
        """Start it in the background, without a terminal. Raises StageError."""
        own = SCENARIOS / f"{scenario}.xml"
        self.name = f"sipp-{scenario}-{len(stage.processes)}"
        self._statistics = stage.directory / f"{self.name}.csv"
        command = [program, *(["-sf", str(own)] if own.exists() else ["-sn", scenario])]
        command += ["-i", local[0], "-p", str(local[1]), "-mi", local[0], "-nostdin"]
        command += ["-trace_stat", "-stf", str(self._statistics), "-fd", "1", "-trace_err"]
        command += ["-error_file", str(stage.directory / f"{self.name}.errors")]
        command += [*more, *([f"{remote[0]}:{remote[1]}"] if remote else [])]
        self.process: Process = stage.start(self.name, command, TERM="dumb")

    def finish(self, within: float) -> dict[str, int]:
        """Wait until it ends by itself; return its cumulative statistics. Raises StageError when it does not."""
        try:
            self.process.popen.wait(within)
        except Exception:
            self.process.kill()
            raise StageError(f"{self.name} did not end within {within:g} s") from None
        return self.statistics()

    def statistics(self) -> dict[str, int]:
        """Return the last line of its statistics, the cumulative counts only: ``SuccessfulCall``, ``FailedCall`` …"""
        try:
            with self._statistics.open(newline="") as file:
                rows = list(csv.DictReader(file, delimiter=";"))
        except OSError:
            rows = []
        if not rows:
            raise StageError(f"{self.name} wrote no statistics: {' '.join(self.process.complaints()[-2:])}")
        return {
            key.removesuffix("(C)"): int(value)
            for key, value in rows[-1].items()
            if key and key.endswith("(C)") and value and value.isdigit()
        }
