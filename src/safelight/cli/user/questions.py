"""Questions of a command that runs once, on a terminal; the REPL has its own prompt."""

import signal

import click

from safelight.runtime.signals import interruptible


async def ask(question: str) -> str | None:
    """Ask on standard error. Ctrl-C exits; the end of input cancels."""
    with interruptible():
        try:
            answer: str = click.prompt(question, default="", show_default=False, prompt_suffix=" ", err=True)
        except click.Abort as abort:
            if isinstance(abort.__context__, KeyboardInterrupt):
                raise SystemExit(128 + signal.SIGINT) from None
            return None
        return answer
