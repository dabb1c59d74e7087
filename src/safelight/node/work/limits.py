"""How much a job may ask for."""

from safelight.config import Config
from safelight.encryption import sealed_size
from safelight.wire.messages import Action, Problem, Refusal
from safelight.wire.tickets import Scope


def largest_body(config: Config, job: Scope) -> int:
    """The size in bytes of the largest body that the job may have."""
    largest = config.max_image_size
    return largest if job.action is Action.SEAL else sealed_size(job.scheme, largest, job.user)


def check_size(config: Config, job: Scope) -> None:
    """Raises Refusal (TOO_LARGE, BAD_REQUEST) for a size that no body of this job may have."""
    if job.action is Action.REMOVE:
        if job.size:
            raise Refusal(Problem.BAD_REQUEST, "a removal has no body: set size to 0")
        return
    if job.size is not None and job.size > (limit := largest_body(config, job)):
        raise Refusal(
            Problem.TOO_LARGE,
            f"{job.size} bytes are more than the {limit} that this cluster takes: "
            "its operator can raise max_image_size",
        )
    if job.size == 0:
        raise Refusal(Problem.BAD_REQUEST, "the body is empty: there is nothing to encrypt or to open")
