"""The conformance suite as tests, with its short loads: `make conformance` plays the long ones too.

Among them are rows R04, R05, R06, R07, R08, R09, R12, R14, R17, R19 and T05 from outside, SIPp, baresip and tshark.
SIPp on both sides shows, quickly, of R26 a 407, of R30 PRACK on both legs, of R34 a hold, of R35 UPDATE, of R36 a 422,
of R37 a REFER carried out and one passed on, of R51 a silent target; the other scenarios are part of the long run.
"""

import pytest

from conformance.ground import Ground
from conformance.runner import Result, cases, play

pytestmark = [pytest.mark.sockets, pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def ground(request):
    with Ground(thorough=False) as ground:
        ground.chosen = frozenset(item.callspec.id for item in request.session.items if item.path == request.path)
        yield ground


@pytest.mark.parametrize("one", [pytest.param(one, id=one.id) for one in cases() if not one.load])
def test_case(one, ground):
    verdict = play(one, ground)
    if verdict.result is Result.NOT_APPLICABLE:
        pytest.skip(verdict.reason)
    assert verdict.result is Result.PASSED, verdict.reason
