"""A stand-in for APIXO on a real socket, as strict as the vendor's contract.

`Provider` runs it. `contract` is what is taken and answered, `tasks` and `world` what a task goes through, `bank`
money, `studio` and `film` videos, `courier` callbacks, `routes` HTTP, `journal` what happened; `faults`, `mishaps` and
`wire` are what goes wrong on order. Keep out all that is not the provider's.
"""

from sandbox.provider.dials import Dials
from sandbox.provider.faults import Fault
from sandbox.provider.server import Provider

__all__ = ["Dials", "Fault", "Provider"]
