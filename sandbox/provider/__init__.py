"""A stand-in for APIXO on a real socket, as strict as the vendor's contract.

`Provider` starts and stops it. Who changes it: `contract` what is taken and answered, `tasks` what a task goes
through, `bank` money, `studio` and `film` videos, `routes` HTTP, `faults` and `wire` what goes wrong, `journal`
what happened.
"""

from sandbox.provider.dials import Dials
from sandbox.provider.server import Provider

__all__ = ["Dials", "Provider"]
