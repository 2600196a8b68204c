"""An emulator of APIXO on a real socket, as strict as the vendor's contract. `Provider` runs it.

`contract` validates requests and builds responses, `emulator` and `tasks` hold the state, `renderer` and `video_maker`
make videos, `callback_sender` delivers callbacks, `routes` is the HTTP API, `request_log` records it. `faults` defines
what can go wrong; `fault_middleware` and `fault_effects` make it happen.
"""

from sandbox.provider.faults import Fault
from sandbox.provider.options import ProviderOptions
from sandbox.provider.server import Provider

__all__ = ["Fault", "Provider", "ProviderOptions"]
