"""A few moments of kill_test.py."""

import kill_test


def test_nothing_is_lost_at_random_moments(tmp_path, make_video):
    results = kill_test.run(10, seed=1, make_video=make_video, folder=tmp_path)
    assert sum(sum(counts.values()) for counts in results.values()) == 10
