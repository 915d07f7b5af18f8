"""Pages of the data sets: source, license, layout, the commands from the download to a score, disk and time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "dataset_pages"]

KILOBYTES = 28.9
"""Of a stored frame with its smaller copies, 340x256 at quality 90 (README, Storage)."""
FRAMES_PER_SECOND = 2985
"""Converted on two cores, 340x256 H.264 (README, Conversion)."""
TERMS = "see the page of the data set"


@dataclass(frozen=True)
class Dataset:
    """A data set that the library reads.

    Attributes:
        name: of the converter and the page.
        title: name in print.
        content: one sentence.
        home: address.
        license: of videos and annotation, as its page states it.
        hours: of video; 0: not known to us.
        rate: stored frames per second.
        annotation: files that the converter reads.
        commands: from the files to a score.
        notes: what is particular.
    """

    name: str
    title: str
    content: str
    home: str
    license: str
    hours: float
    rate: float
    annotation: str
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _recognition(name: str, *, source: str, cut: tuple[str, ...] = (), network: str = "srtg_r3d_34") -> tuple[str, ...]:
    """Commands of a recognition data set.

    Args:
        name: of the converter.
        source: folder of the official annotation.
        cut: CSV files, which the converter writes, of clips that the conversion cuts from longer videos.
        network: to train.
    """
    folder = f"data/{name}"
    train = (f"vidseg train {name} {folder} --network {network} --out runs/{name}", f"vidseg test runs/{name}")
    apply = f"vidseg labels {name} {source} --dataset {folder}"
    if not cut:
        return (f"vidseg convert videos {folder}", apply, *train)
    conversions = [f"vidseg convert labels/{file} {folder} --videos videos" for file in cut]
    return (f"vidseg labels {name} {source} --out labels", *conversions, apply, *train)


def _segmentation(name: str) -> tuple[str, ...]:
    return (
        f"vidseg labels {name} data/{name}",
        f"vidseg train {name} data/{name} --network mstcn --out runs/{name}",
        f"vidseg plot report runs/{name}",
    )


def _detection(name: str, *, source: str, words: str = "", train: str = "") -> tuple[str, ...]:
    return (
        f"vidseg labels {name} {source} data/{name}{words}",
        f"vidseg train {train or 'detection'} data/{name} --network actionformer --out runs/{name}",
        f"vidseg test runs/{name}",
    )


_FEATURES = (
    "Features are `data/{}/features/<video>.npy`, (D, L): published ones, or those of `vidseg extract-features`."
)

DATASETS = (
    Dataset(
        "hmdb51",
        "HMDB-51",
        "6766 clips of 51 actions from films and the web, three divisions.",
        "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        "CC BY 4.0",
        0,
        30,
        "`testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt`",
        _recognition("hmdb51", source="testTrainMulti_7030_splits"),
        (
            "Unpack the archive of each class, so that the videos are `videos/<class>/<video>.avi`.",
            "The splits are `split1/train`, `split1/test` and so on; the first division is the default.",
        ),
    ),
    Dataset(
        "ucf101",
        "UCF-101",
        "13320 clips of 101 actions from YouTube, three divisions.",
        "https://www.crcv.ucf.edu/data/UCF101.php",
        TERMS,
        27,
        25,
        "`ucfTrainTestlist/`: `classInd.txt`, `trainlist01.txt` to `testlist03.txt`",
        _recognition("ucf101", source="ucfTrainTestlist"),
        ("Clips of one group (`_g01_`) come from one video and stay in one part of each division.",),
    ),
    Dataset(
        "kinetics",
        "Kinetics-200, 400, 600, 700",
        "Clips of 10 s from YouTube: 306 245 (400), 495 547 (600) or 650 317 (700).",
        "https://github.com/cvdfoundation/kinetics-dataset",
        TERMS,
        1800,
        30,
        "`train.csv`, `validate.csv`, `test.csv` of the release",
        _recognition("kinetics", source="kinetics700", cut=("kinetics-700_train.csv", "kinetics-700_val.csv")),
        (
            "`--variant 200`, `400`, `600`: another release; 200 needs the two id lists beside the files of 400.",
            "Clips that are cut already are converted from their folder, `vidseg convert videos data/kinetics`.",
            "`--size 256`, `--fps` and `--store video` save disk; several machines convert shards of it.",
        ),
    ),
    Dataset(
        "moments",
        "Moments in Time",
        "About 800 000 clips of 3 s of 339 actions and events.",
        "http://moments.csail.mit.edu",
        "after registration; see the page of the data set",
        670,
        30,
        "`trainingSet.csv`, `validationSet.csv`, `moments_categories.txt`",
        _recognition("moments", source="Moments_in_Time_Raw", network="mtnet_s"),
    ),
    Dataset(
        "hacs",
        "HACS Clips",
        "Clips of 2 s of 200 actions from YouTube; negative samples are skipped.",
        "https://github.com/hangzhaomit/HACS-dataset",
        TERMS,
        280,
        30,
        "`HACS_clips_v1.1.csv` or `HACS_clips_v1.1.1.csv`",
        _recognition("hacs", source="HACS_v1.1.1", cut=("HACS_clips_v1.1_train.csv", "HACS_clips_v1.1_val.csv")),
    ),
    Dataset(
        "diving48",
        "Diving-48",
        "About 17 000 clips of 48 dives (V2).",
        "http://www.svcl.ucsd.edu/projects/resound/dataset.html",
        TERMS,
        0,
        30,
        "`Diving48_V2_train.json`, `Diving48_V2_test.json`, `Diving48_vocab.json`",
        _recognition("diving48", source="Diving48"),
        ("The videos are in one folder without classes; the catalog has them.",),
    ),
    Dataset(
        "gtea",
        "GTEA",
        "28 videos of 7 activities by 4 people, 11 classes, four splits, leave one person out.",
        "https://zenodo.org/records/3625992",
        TERMS,
        0.6,
        15,
        "`mapping.txt`, `groundTruth/`, `splits/`, `features/` of the MS-TCN data set",
        _segmentation("gtea"),
    ),
    Dataset(
        "50salads",
        "50Salads",
        "50 videos of 25 people, 19 classes (17 actions), five splits.",
        "https://cvip.computing.dundee.ac.uk/datasets/foodpreparation/50salads/",
        "CC BY-NC-SA 4.0",
        4.5,
        30,
        "the MS-TCN data set, or the original `activity_annotation/` with `labels/low_to_mid.txt`",
        _segmentation("50salads"),
        ("Networks see every second column; the scores are those of all frames.",),
    ),
    Dataset(
        "breakfast",
        "Breakfast",
        "1712 videos of 52 people in 18 kitchens, 48 classes, four splits.",
        "https://serre-lab.clps.brown.edu/resource/breakfast-actions-dataset/",
        TERMS,
        77,
        15,
        "the MS-TCN data set, or the original coarse or fine annotation",
        _segmentation("breakfast"),
    ),
    Dataset(
        "egtea",
        "EGTEA Gaze+",
        "86 sessions of cooking, three splits of clips; verbs or actions as classes.",
        "https://cbs.ic.gatech.edu/fpv/",
        TERMS,
        28,
        24,
        "`train_split1.txt` to `test_split3.txt` with `verb_idx.txt` or `action_idx.txt`",
        (
            "vidseg convert videos data/egtea --fps 24",
            "vidseg labels egtea action_annotation --dataset data/egtea",
            "vidseg extract-features data/egtea --weights recognition.pth --stride 8",
            "vidseg train segmentation data/egtea --network mstcn --labels-per-column 8 --out runs/egtea",
            "vidseg plot report runs/egtea",
        ),
        ("The official splits divide clips; each session goes to the part with most of its clips.",),
    ),
    Dataset(
        "thumos14",
        "THUMOS-14",
        "200 validation and 213 test videos of 20 sports, used for training and test.",
        "https://www.crcv.ucf.edu/THUMOS14/",
        TERMS,
        24,
        30,
        "`<Class>_val.txt` and `<Class>_test.txt`, or the JSON file of G-TAD, ActionFormer or OpenTAD",
        (
            "vidseg labels segments data/thumos14 thumos14.json",
            "vidseg train thumos14 data/thumos14 --network actionformer --out runs/thumos14",
            "vidseg test runs/thumos14",
        ),
        (_FEATURES.format("thumos14"), "`vidseg labels thumos14` writes frame labels instead, for segmentation."),
    ),
    Dataset(
        "multithumos",
        "MultiTHUMOS",
        "65 actions, several at a time, in the 413 videos of THUMOS-14.",
        "http://ai.stanford.edu/~syyeung/everymoment.html",
        TERMS,
        30,
        30,
        "`annotations/<Class>.txt` with `class_list.txt`, or `multithumos.json`",
        _detection("multithumos", source="multithumos", words=" --without-durations"),
        (_FEATURES.format("multithumos"),),
    ),
    Dataset(
        "activitynet",
        "ActivityNet-1.3",
        "19 994 videos of 200 activities.",
        "http://activity-net.org",
        TERMS,
        648,
        15,
        "`activity_net.v1-3.min.json`, or the files of BMN",
        _detection("activitynet", source="annotation", words=" --on-error skip", train="activitynet"),
        (
            _FEATURES.format("activitynet"),
            "Some segments have no length, hence `--on-error skip`.",
            "`vidseg train activitynet_pixels` trains ETAD end to end from frame databases.",
        ),
    ),
    Dataset(
        "hacs_segments",
        "HACS Segments",
        "50 000 videos of the 200 activities of ActivityNet.",
        "https://github.com/hangzhaomit/HACS-dataset",
        TERMS,
        0,
        15,
        "`HACS_segments_v1.1.1.json` or `HACS_segments_v1.1.json`",
        _detection("hacs_segments", source="HACS_v1.1.1", train="hacs_segments"),
        (_FEATURES.format("hacs_segments"),),
    ),
    Dataset(
        "fineaction",
        "FineAction",
        "16 732 videos of 106 fine-grained actions.",
        "https://deeperaction.github.io/datasets/fineaction",
        TERMS,
        0,
        15,
        "`annotations_gt.json`",
        _detection("fineaction", source="annotation"),
        (_FEATURES.format("fineaction"),),
    ),
    Dataset(
        "epic_kitchens",
        "EPIC-Kitchens-100",
        "700 first-person videos, 97 verbs and 300 nouns.",
        "https://epic-kitchens.github.io",
        TERMS,
        100,
        50,
        "`EPIC_100_train.csv`, `EPIC_100_validation.csv`, `EPIC_100_video_info.csv`, the class lists",
        _detection("epic_kitchens", source="epic-kitchens-100-annotations", words=" --level verb"),
        (_FEATURES.format("epic_kitchens"), "`--level noun` and `action` have other classes."),
    ),
    Dataset(
        "charades",
        "Charades",
        "9848 videos of 157 everyday actions, several at a time.",
        "https://prior.allenai.org/projects/charades",
        TERMS,
        82,
        24,
        "`Charades_v1_train.csv`, `Charades_v1_test.csv`, `Charades_v1_classes.txt`",
        _detection("charades", source="Charades"),
        (_FEATURES.format("charades"),),
    ),
)


def dataset_pages() -> dict[str, str]:
    """Return the text of each page by its file name, and index.md with a table."""
    pages = {f"{data.name}.md": _page(data) for data in DATASETS}
    rows = [
        f"| [{data.title}]({data.name}.md) | {data.content} | {data.license} | {_disk(data)} |" for data in DATASETS
    ]
    pages["index.md"] = "\n".join(
        [
            "# Data sets",
            "",
            "vidseg reads the official annotation of these data sets. None of their files is part of vidseg. Disk is",
            f"estimated for frame databases of 340x256 pixels: hours of video at the given rate, {KILOBYTES} KB each.",
            "",
            "| data set | content | license | disk |",
            "| --- | --- | --- | ---: |",
            *rows,
            "",
        ]
    )
    return pages


def _disk(data: Dataset) -> str:
    return f"{data.hours * 3600 * data.rate * KILOBYTES / 1e6:,.0f} GB" if data.hours else ""


def _page(data: Dataset) -> str:
    frames = data.hours * 3600 * data.rate
    facts = [
        ("content", data.content),
        ("source", f"<{data.home}>"),
        ("license", data.license),
        ("annotation", data.annotation),
    ]
    if frames:
        facts += [
            ("video", f"about {data.hours:g} hours, {frames / 1e6:,.1f} million frames at {data.rate:g} per second"),
            ("frame databases", f"about {_disk(data)} at 340x256; `--store video` takes a seventh"),
            ("conversion", f"about {frames / FRAMES_PER_SECOND / 3600:,.1f} hours on two cores, plus the download"),
        ]
    lines = [f"# {data.title}", "", "| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in facts), ""]
    lines += ["From the downloaded files to a score:", "", "```text", *data.commands, "```", ""]
    lines += [*(f"- {note}" for note in data.notes), ""] if data.notes else []
    estimate = "Disk and conversion time are estimated from the README's measurements, not measured on this data set."
    return "\n".join([*lines, *([estimate, ""] if frames else [])])
