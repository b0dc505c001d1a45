"""Check the functions of the application that passes call."""

from collections.abc import Iterator

from retrycli.domain.errors import ConfigurationError
from retrycli.operations.doctor.context import Context, Finding, of_error, ok, warning
from retrycli.operations.doctor.machine import RUN_AS_OWNER
from retrycli.system import python_call
from retrycli.system.trust import find_weakness, trusted_users


def functions(context: Context) -> Iterator[Finding]:
    """Check that each function can be imported and called. Do not run code that another user can change."""
    for call in context.settings.calls:
        files = [*python_call.files_of(call.name, call.folder), *([] if call.folder is None else [call.folder])]
        weaknesses = (find_weakness(file, trusted_users()) for file in files)
        if (weakness := next(filter(None, weaknesses), None)) is not None:
            yield warning(
                "function",
                f"{call.key}: {call.name} was not imported, because {weakness}",
                RUN_AS_OWNER if weakness.is_of_another else weakness.remedy,
            )
            continue
        try:
            python_call.load(*call)
        except ConfigurationError as error:
            yield of_error("function", str(error))
        else:
            yield ok("function", f"{call.key}: {call.name} can be called")
