"""The sizes that a request may have."""

from safelight.config import Config
from safelight.encryption import sealed_size
from safelight.wire.messages import Action, Problem, Refusal
from safelight.wire.tickets import Scope


def largest_body(config: Config, scope: Scope) -> int:
    """The largest body in bytes that the request may have."""
    largest = config.max_image_size
    return largest if scope.action is Action.SEAL else sealed_size(scope.scheme, largest, scope.user)


def check_size(config: Config, scope: Scope) -> None:
    """Raises Refusal (TOO_LARGE, BAD_REQUEST) if the request may not have a body of its size."""
    if scope.action is Action.REMOVE:
        if scope.size:
            raise Refusal(Problem.BAD_REQUEST, "a removal has no body: set size to 0")
        return
    if scope.size is not None and scope.size > (limit := largest_body(config, scope)):
        raise Refusal(
            Problem.TOO_LARGE,
            f"{scope.size} bytes are more than the {limit} bytes that this cluster takes: "
            "its operator can raise max_image_size",
        )
    if scope.size == 0:
        raise Refusal(Problem.BAD_REQUEST, "the body is empty: there is nothing to encrypt or decrypt")
