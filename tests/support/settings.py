"""Settings for tests: built from the arguments alone, whatever the environment holds."""

from __future__ import annotations

from collections.abc import Callable

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from i2v.settings import Settings

MakeSettings = Callable[..., Settings]
"""Type of the `make_settings` fixture."""


class SealedSettings(Settings):
    """Settings that read neither the environment nor any file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the constructor's arguments and no other source."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)
