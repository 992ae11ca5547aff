"""Years of a grid in virtual time, cared for by check, verify and repair: what happened, and what repair moved.

Every month all that is said is held against what is so; a word that is not true ends this with an error.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from figures import Figure, arguments, report
from harness import scratch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the simulation of the tests

from annex_remote.care.health import State
from tests.care.years import Years


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--days", type=int, default=1095)
    options = parser.parse_args()
    events: Counter[str] = Counter()
    said: Counter[State] = Counter()
    read = written = stored = lost = needless = count = 0
    began = time.perf_counter()
    with scratch(options.scratch, 1 << 28) as root:
        for seed in range(options.seeds):
            folder = root / str(seed)
            folder.mkdir()
            years = Years(seed, folder)
            for _ in years.run(options.days):
                pass
            events += years.events
            said += years.said
            read += years.tally.read
            written += years.tally.written
            stored += years.stored
            count += len(years.object_ids)
            fell = {each for each, least in years.least.items() if least < years.coding.needed}
            gone = {each for each in years.object_ids if len(years.truly_good(each)) < years.coding.needed}
            lost += len(fell)
            needless += len(gone - fell)
            print(f"seed {seed}: {dict(years.events)}", file=sys.stderr)
    in_years = options.days / 365
    total = options.seeds * in_years
    figures = [Figure("grids times years", total, "", f"{time.perf_counter() - began:.0f} s")]
    figures += [Figure(f"{what} in a year of a grid", number / total, "") for what, number in events.items()]
    figures += [
        Figure("objects", count, "", "3-of-5 on 6 stores"),
        Figure("objects whose good shares fell below needed", lost, ""),
        Figure("objects lost that never fell below needed", needless, "", target=0, at_most=True),
        Figure("read for repair in a year", read / stored / in_years, "x", "of the bytes that are stored"),
        Figure("written by repair in a year", written / stored / in_years, "x", "of the bytes that are stored"),
    ]
    report(f"Years of care, {options.seeds} grids of {options.days} days", figures, options.json)


if __name__ == "__main__":
    main()
