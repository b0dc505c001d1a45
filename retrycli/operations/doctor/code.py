"""Check the functions of the application that passes call."""

from collections.abc import Iterator

from retrycli.domain.errors import ConfigurationError
from retrycli.operations.doctor.context import Context, Finding, of_error, ok
from retrycli.system import python_call
from retrycli.system.trust import require_trust


def functions(context: Context) -> Iterator[Finding]:
    """Check that each function can be imported and called. Code that another user can change does not run, wherever it
    is found.
    """
    for call in context.settings.calls:
        try:
            for file in python_call.files_of(call.name, call.folder):
                require_trust(file, call.key, may_be_missing=True)  # then `load` reports it
            python_call.load(*call)
        except ConfigurationError as error:
            yield of_error("function", str(error))
        else:
            yield ok("function", f"{call.key}: {call.name} can be called")
