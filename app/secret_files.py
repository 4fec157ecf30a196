"""Settings that read their secrets from files: `WEBHOOK_SECRET_FILE` names the file of WEBHOOK_SECRET.

SECRETS_DIR names a directory of secrets, as container platforms mount it. A file there has the name of its variable,
in capitals or not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, PydanticBaseSettingsSource


class SecretFileError(ValueError):
    """A secret that can't be had from its file; the text names the variable and the file, never the content."""


class SecretsInFiles:
    """Lets a class of settings read each of its secrets from a file instead, but not from two places.

    It stands before `BaseSettings` among the bases.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        files = _SecretFiles(settings_cls, {**dotenv_settings.env_vars, **env_settings.env_vars})
        return init_settings, env_settings, dotenv_settings, files


class _SecretFiles(PydanticBaseSettingsSource):
    """The secrets of a class of settings that stand in files. `variables` have their names in lower case."""

    def __init__(self, settings_cls: type[BaseSettings], variables: dict[str, str | None]) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def __call__(self) -> dict[str, Any]:
        secret = {name: each for name, each in self.settings_cls.model_fields.items() if _is_secret(each.annotation)}
        found = {name: self.get_field_value(field, name)[0] for name, field in secret.items()}
        return {name: value for name, value in found.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret in the file of a field; None without one. Raises `SecretFileError`."""
        variable = f"{self.config.get('env_prefix', '')}{field_name}".upper()
        files = dict(self._files_of(variable))
        places = [variable, *files] if self._variables.get(variable.lower()) else list(files)
        if len(places) > 1:
            raise SecretFileError(f"{variable} is given twice, by {' and '.join(places)}: remove one of them.")
        value: Any = None
        for path in files.values():
            value = _read(variable, path)
            if self.field_is_complex(field):
                try:
                    value = self.decode_complex_value(field_name, field, value)
                except ValueError:
                    raise SecretFileError(f"The file of {variable}, {path}, has to hold JSON.") from None
        return value, field_name, False

    def _files_of(self, variable: str) -> Iterator[tuple[str, Path]]:
        """The files of a secret, each with what names it: a variable or its path."""
        if named := self._variables.get(f"{variable}_file".lower()):
            yield f"{variable}_FILE", Path(named)
        if directory := self._variables.get("secrets_dir"):
            try:
                paths = sorted(Path(directory).iterdir())
            except OSError as error:
                raise SecretFileError(f"SECRETS_DIR, {directory}, can't be read: {error.strerror}.") from None
            yield from ((str(path), path) for path in paths if path.name.upper() == variable)


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def _read(variable: str, path: Path) -> str:
    """The text of a file without the end of its last line."""
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SecretFileError(f"The file of {variable}, {path}, can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SecretFileError(f"The file of {variable}, {path}, can't be read: save it as UTF-8.") from None
    if not (secret := content.rstrip("\r\n")):
        raise SecretFileError(f"The file of {variable}, {path}, is empty.")
    return secret
