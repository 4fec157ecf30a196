"""Where a vendor's settings come from: the environment and `.env`, under a prefix of the vendor's own."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class VendorSettings(BaseSettings):
    """A vendor's settings. A subclass names its prefix: `model_config = SettingsConfigDict(env_prefix="TWILIO_")`."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )
