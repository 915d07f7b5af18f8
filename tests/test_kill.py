"""A few moments of kill_test.py, of the kinds of work that no other test kills."""

import kill_test
import kill_work
import pytest

KINDS = (
    kill_work.Conversion,
    kill_work.SegmentationTraining,
    kill_work.Catalog,
    kill_work.StreamingTraining,
    kill_work.Extraction,
    kill_work.JpegExport,
    kill_work.FlowExtraction,
)


@pytest.mark.slow
def test_nothing_is_lost_at_random_moments(tmp_path, make_video):
    results = kill_test.run(8, seed=1, make_video=make_video, folder=tmp_path, kinds=KINDS)
    assert [finding for result in results.values() for finding in result.findings] == []
    assert sum(result.victims.total() for result in results.values()) == 8
