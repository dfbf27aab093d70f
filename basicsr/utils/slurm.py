"""Slurm's description of a process, as the variables that torch's `env://` reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from basicsr.utils.options import OptionError


def first_host(nodes: str) -> str:
    """Return the first machine of a Slurm list such as `gpu[03-05,9],login`, by `scontrol` where it is installed.

    Raises:
        OptionError: no such list.
    """
    if shutil.which('scontrol'):
        asked = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.split():
            return asked.stdout.split()[0]
    found = re.match(r'([^,\[\]\s]+)(?:\[(\d+)[^\]]*\]([^,\[\]\s]*))?', nodes)
    if not found:
        raise OptionError(f"--launcher slurm: SLURM_NODELIST is '{nodes}', which names no machine; set MASTER_ADDR")
    return ''.join(part or '' for part in found.groups())


def launcher_environment(given: Mapping[str, str], port: int | None = None) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of a process that `srun` started.

    Args:
        given: its environment. MASTER_ADDR and MASTER_PORT are taken over where set.
        port: of the first machine, where MASTER_PORT is not set; by default one that follows from the job's number.

    Raises:
        OptionError: Slurm did not start this process.
    """
    names = {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'}
    missing = [name for name in (*names.values(), 'SLURM_NODELIST') if not given.get(name)]
    if missing == ['SLURM_NODELIST'] and given.get('MASTER_ADDR'):
        missing = []
    if missing:
        raise OptionError(f'--launcher slurm: {", ".join(missing)} not set; start with srun, one task for each GPU')
    result = {name: given[source] for name, source in names.items()}
    result['MASTER_ADDR'] = given.get('MASTER_ADDR') or first_host(given['SLURM_NODELIST'])
    own = port or 20000 + int(given.get('SLURM_JOB_ID', 0)) % 10000
    result['MASTER_PORT'] = given.get('MASTER_PORT') or str(own)
    return result


def set_environment(port: int | None = None) -> None:
    """`launcher_environment` for this process."""
    os.environ.update(launcher_environment(os.environ, port))
