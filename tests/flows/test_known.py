"""Which window a flow takes when it is given none."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from audit import record
from audit.errors import UserError
from audit.events.payloads import PAYLOADS
from audit.events.references import Window
from audit.recording.initialise import initialise
from audit.spec.model import Spec
from flows import _known as known
from tests.flows.conftest import SPEC
