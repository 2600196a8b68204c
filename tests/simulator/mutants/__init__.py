"""Break one promise on purpose, to see how soon the simulator finds it: `python -m tests.simulator --mutants`.

Each mutant is a function that patches the library in this process for good; its docstring says which promise it breaks,
and how. Add one for each new promise about money.
"""

from tests.simulator.mutants import limits, names_and_erasure, paid_work, paying_once, what_is_seen

MUTANTS = (*paying_once.MUTANTS, *paid_work.MUTANTS, *what_is_seen.MUTANTS, *limits.MUTANTS, *names_and_erasure.MUTANTS)
