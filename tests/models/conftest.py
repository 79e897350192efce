from __future__ import annotations

import pytest

for _suite in ("layer_base", "layer_module", "layer_suite"):
    pytest.register_assert_rewrite(f"contracts.{_suite}")
