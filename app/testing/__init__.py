"""The contract of every provider, as tests for a package of your own (docs/adding-a-provider.md)."""

import pytest

# So that a failing `assert` of the contract shows its values, as in a test.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("contract", "description", "kit", "vendor")))
