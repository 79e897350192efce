from __future__ import annotations

import pytest

pytest.register_assert_rewrite("contracts.op_suite")
pytest.register_assert_rewrite("contracts.device_suite")
