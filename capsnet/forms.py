"""Choices that a lowering makes, and that a user may make instead. Needs no torch."""

from collections.abc import Mapping

from capsnet.errors import ConfigError

__all__ = ["FORMS", "check_forms"]

FORMS: Mapping[str, tuple[str, ...]] = {
    "routing": ("projected", "votes"),
    "convolution": ("direct", "winograd"),
}
"""The forms of each choice. All of them compute the same function, exactly."""


def check_forms(forms: Mapping[str, str]) -> None:
    """Raise ConfigError if a choice or a form is none of :data:`FORMS`."""
    for choice, form in forms.items():
        if choice not in FORMS:
            raise ConfigError(f"there is no choice {choice!r}, expected {', '.join(FORMS)}")
        if form not in FORMS[choice]:
            raise ConfigError(
                f"{choice} must be one of {', '.join(FORMS[choice])}, got {form!r}; "
                "leave it out for the fastest"
            )
