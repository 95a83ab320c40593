"""Each kind of fault has an exit code of its own, which scripts rely on."""

import pytest

from ddim_core import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("DataError", 3),
        ("CheckpointError", 4),
        ("NonFiniteError", 5),
        ("DiskError", 6),
        ("UnavailableError", 7),
    ],
)
def test_exit_codes(name, code):
    kind = getattr(errors, name)
    assert kind.exit_code == code
    assert issubclass(kind, errors.DDIMError)


def test_all_are_listed_and_none_shares_a_code():
    kinds = [getattr(errors, name) for name in errors.__all__ if name != "printable"]
    assert {k for k in vars(errors).values() if isinstance(k, type)} == set(kinds)
    assert len({k.exit_code for k in kinds}) == len(kinds)


def test_a_wrong_value_is_a_value_error_too():
    with pytest.raises(ValueError, match="one line"):
        raise errors.UsageError("one line")
