"""Published weights: the table, files found by name, digests compared before a file is read."""

import hashlib
import json
import re

import pytest
import torch

import vidseg
from vidseg.cli.main import main
from vidseg.engine.initial_weights import load_initial
from vidseg.engine.options import NetworkOptions
from vidseg.engine.runs import RunFolder
from vidseg.models import _published, list_models
from vidseg.models._counts import COUNTS, count_network
from vidseg.models._published import PUBLISHED, PublishedWeights, find_published

SMALL = {"network": "torchvision_mc3_18", "width": 0.125}


def test_rows_name_registered_networks_and_are_complete():
    names = set(list_models())
    assert {one.network for one in PUBLISHED} <= names
    assert COUNTS.keys() <= names
    keys = [(one.network, one.data) for one in PUBLISHED]
    assert len(set(keys)) == len(keys)
    for one in PUBLISHED:
        assert one.source and (one.score or one.address)
        assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", one.sha256)
        assert one.address == "" or re.fullmatch(r"https://\S+/[\w.-]+\.(pth|pt|pyth|safetensors|bin|tar)", one.address)
        assert not one.sha256 or len(one.sha256) == 64 or f"-{one.sha256}." in one.file


@pytest.mark.parametrize("name", ["mstcn", "torchvision_mc3_18", "tsn_r50"])
def test_stored_counts_are_those_of_the_network(name):
    assert COUNTS[name] == count_network(name)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of random weights in the cache folder, published with its digest."""
    monkeypatch.setenv("VIDSEG_CACHE", str(tmp_path))
    torch.manual_seed(0)
    model = vidseg.create_model(SMALL["network"], num_classes=4, width=SMALL["width"])
    torch.save(model.state_dict(), tmp_path / "new.pth")
    digest = hashlib.sha256((tmp_path / "new.pth").read_bytes()).hexdigest()
    path = (tmp_path / "new.pth").rename(tmp_path / f"mc3-{digest[:8]}.pth")

    def publish(sha256):
        row = PublishedWeights(SMALL["network"], "shapes", "", "a test", f"https://example.org/{path.name}", sha256)
        monkeypatch.setattr(_published, "PUBLISHED", (row,))
        _published._digests.cache_clear()

    yield path, digest, publish
    _published._digests.cache_clear()


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_of_the_cache_folder_is_used_by_name(weights, digits):
    path, digest, publish = weights
    publish(digest[:digits])
    assert find_published("shapes", SMALL["network"]) == find_published(path.name, SMALL["network"]) == path
    model = vidseg.create_model(SMALL["network"], num_classes=4, width=SMALL["width"])
    options = NetworkOptions(SMALL["network"], (f"width={SMALL['width']}",), pretrained="shapes")
    report = load_initial(model, options, RunFolder(path.parent / "run", SMALL["network"]))
    assert report.filled == 1


@pytest.mark.parametrize("digits", [8, 64])
def test_a_wrong_file_is_refused_with_both_digests(weights, digits):
    path, digest, publish = weights
    publish(digest[:digits])
    torch.save({"fc.weight": torch.zeros(1)}, path)
    wrong = hashlib.sha256(path.read_bytes()).hexdigest()[:digits]
    model = vidseg.create_model(SMALL["network"], num_classes=4, width=SMALL["width"])
    with pytest.raises(ValueError, match=rf"{wrong}, published is {digest[:digits]}"):
        vidseg.load_weights(model, path)
    own = path.rename(path.with_name("own.pth"))
    with pytest.raises(ValueError, match="agrees in name and shape"):  # not compared
        vidseg.load_weights(model, own)


def test_a_missing_file_is_named_with_its_address_and_its_place(weights):
    path, digest, publish = weights
    publish(digest[:8])
    path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        find_published("shapes", SMALL["network"])
    for part in (f"fetch https://example.org/{path.name}", f"put it at {path}", digest[:8]):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="published for torchvision_mc3_18, not for tsn_r50"):
        find_published("shapes", "tsn_r50")
    with pytest.raises(FileNotFoundError, match="did you mean 'shapes'"):
        find_published("shape", SMALL["network"])
    with pytest.raises(FileNotFoundError, match=r"weights file absent\.pth does not exist"):
        find_published("absent.pth", SMALL["network"])


def test_without_a_digest_nothing_is_compared(weights):
    path, _, publish = weights
    publish("")
    assert find_published("shapes", SMALL["network"]) == path


def test_models_shows_cost_score_and_file(capsys):
    assert main(["models", "torchvision_*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["network", "task", "parameters", "GMAC"]
    assert "https://download.pytorch.org/models/r3d_18-b3b3357e.pth" in lines[-1]
    assert "33,371,472" in lines[-1] and "40.70" in lines[-1] and "63.200 / 83.479" in lines[-1]
    assert main(["models", "tsm_r50"]) == 0
    text = capsys.readouterr().out
    assert "options: shift_division=8" in text and "--pretrained kinetics400 " in text
    assert "SHA-256 a6db1e5d" in text and "SHA-256 not published" in text
    assert main(["models", "tsm_r50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["published"][0]["file"].endswith("-a6db1e5d.pth")
