"""The CIFAR-10 FedAvg job with metrics in Weights & Biases.

python jobs/wandb_job.py                                                simulator, metrics through the server
python jobs/wandb_job.py --streamed_to_clients --no-streamed_to_server  simulator, metrics from each site
python jobs/wandb_job.py --export DIR                                   the job's folder, to submit by hand: for any sites
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from multisite.job import options as job_options
from multisite.job.options import JobOptions, OptionError


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, JobOptions]:
    """The command line and the job's options.

    Raises:
        SystemExit: an option is out of range; the message names it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job_options.add_arguments(parser)
    parser.add_argument("--preset", choices=job_options.PRESETS, default="default", help="what the options default to")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the job there and stop")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="simulator: folder of the shards")
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="simulator: a local copy of CIFAR-10")
    parser.add_argument("--limit", type=int, metavar="N", help="simulator: use N training examples only")
    parser.add_argument("--workspace", type=Path, default=Path("results/simulator"), help="simulator: where results go")
    preset = parser.parse_args(arguments).preset
    parser.set_defaults(**dataclasses.asdict(job_options.from_variables(job_options.PRESETS[preset])))
    parsed = parser.parse_args(arguments)
    try:
        return parsed, job_options.from_arguments(parsed)
    except OptionError as error:
        parser.error(str(error))


def main() -> int:
    """Exports or simulates."""
    parsed, options = parse()
    if parsed.export:
        from multisite.job.recipe import Cifar10Recipe

        Cifar10Recipe(options).export(str(parsed.export))
        print(f"job written to {parsed.export}")
        return 0
    from multisite.job.simulation import prepare_data, simulate

    dataset = prepare_data(options, parsed.data, parsed.cifar10, parsed.limit)
    return simulate(dataclasses.replace(options, dataset=dataset), parsed.data, parsed.workspace)


if __name__ == "__main__":
    sys.exit(main())
