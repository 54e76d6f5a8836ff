"""Every failure turned into a CNI error code, in one place.

code  meaning                                                              what to do
11    the server, the state store or the kernel cannot do it now           it is tried again
100   the pool has no free address                                         grow the pool
101   the fixed address is taken                                           see who holds it
102   the namespace may not use the pool                                   list it in the pool
103   the pool does not exist                                              correct the annotation
104   there is no pool to take an address from                             make a default pool
105   the address cannot be given to a pod                                 choose another one
106   the network has no addresses of the family                           ask for the other family
107   the claim has been released already                                  try again
110   the server's answer contradicts itself or an earlier one             see the server's logs
111   the pod has an interface of this name that is not ours               choose another name
112   CHECK: the interface or its addresses are not as ADD left them       restart the pod
113   the kernel refused something                                         the message says what
114   the link below the pod's interface does not exist                    prepare the node
120   the server refused the request                                       the message says why
121   a fault in this program                                              report it, with the logs
Codes below 100 are the specification's: `protocol.py`.
"""

from __future__ import annotations

from typing import Final

from cni_plugins.protocol import (
    BAD_ENVIRONMENT,
    INVALID_CONFIG,
    IO_FAILURE,
    TRY_AGAIN,
    CniError,
)
from hostnet.errors import (
    AddressConflict,
    Busy,
    InvalidValue,
    KernelError,
    NameTaken,
    NetnsError,
    OutOfMemory,
    ParentMissing,
)
from netspace.problems import Problem

FOREIGN_INTERFACE: Final = 111
NOT_AS_LEFT: Final = 112
KERNEL_REFUSED: Final = 113
PARENT_MISSING: Final = 114
ADDRESS_CONFLICT: Final = 115
SERVER_REFUSED: Final = 120
INTERNAL: Final = 121

_PROBLEMS: Final = {
    "pool-exhausted": 100,
    "address-taken": 101,
    "pool-forbidden": 102,
    "pool-unknown": 103,
    "pool-missing": 104,
    "address-unusable": 105,
    "family-missing": 106,
    "claim-released": 107,
    "invalid": INVALID_CONFIG,
}

_NOTHING_DONE: Final = frozenset({"unavailable", "not-leader", "busy", "changed"})
"""Problems that may pass, of requests that were surely not carried out."""

_UNKNOWN: Final = frozenset({"outcome-unknown", "state-unavailable", "state-full", "internal"})
"""Problems after which a slot may or may not have been given."""


def may_have_happened(error: BaseException) -> bool:
    """Whether the request to the server that ended so may have been carried out all the same."""
    return not isinstance(error, Problem) or error.code in _UNKNOWN


def server_away(error: BaseException) -> bool:
    """Whether the server could not answer now, so that asking it for more is in vain."""
    return isinstance(error, Problem) and error.code in _UNKNOWN | _NOTHING_DONE


def to_cni_error(error: BaseException) -> CniError:
    """The CNI error for any exception; unknown ones are 121 and name their type only."""
    match error:
        case CniError():
            return error
        case Problem():
            return _of_problem(error)
        case KernelError():
            return _of_kernel(error)
        case TimeoutError():
            return CniError(TRY_AGAIN, "it took too long", str(error) or "the deadline passed")
        case OSError():
            which = f"{error.filename}: " if error.filename else ""
            return CniError(
                IO_FAILURE, "input or output failed", f"{which}{error.strerror or error}"
            )
    return CniError(
        INTERNAL,
        "the plugin failed",
        f"{type(error).__name__}: this is a fault in the program, please report it with its logs",
    )


def _of_problem(problem: Problem) -> CniError:
    if problem.again:
        when = "" if problem.retry_after is None else f" (again in {problem.retry_after:.0f} s)"
        return CniError(TRY_AGAIN, problem.detail + when, problem.do)
    return CniError(_PROBLEMS.get(problem.code, SERVER_REFUSED), problem.detail, problem.do)


def _of_kernel(error: KernelError) -> CniError:
    code = KERNEL_REFUSED
    match error:
        case Busy() | OutOfMemory():
            code = TRY_AGAIN
        case NetnsError():
            code = BAD_ENVIRONMENT
        case AddressConflict():
            code = ADDRESS_CONFLICT
        case ParentMissing():
            code = PARENT_MISSING
        case NameTaken():
            code = FOREIGN_INTERFACE
        case InvalidValue():
            code = INVALID_CONFIG
    return CniError(code, f"cannot {error.what} {error.which}", f"{error.why}; {error.remedy}")
