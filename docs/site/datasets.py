"""Pages of the data sets: source, license, layout, the commands from the download to a score, disk and time.

A license is one that the publisher's page or repository states, as read in December 2026, and `license_page` is the
address of that statement. Sizes of downloads are from these pages, and those of UCF-101, Kinetics and ActivityNet from
the documentation of FiftyOne, which downloads them. Where nothing was found, the text says "see its page".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "dataset_pages"]

KILOBYTES = 28.9
"""Of a stored frame with its smaller copies, 340x256 at quality 90 (README, Storage)."""
FRAMES_PER_SECOND = 2985
"""Converted on two cores, 340x256 H.264 (README, Conversion)."""
TERMS = "see its page"


@dataclass(frozen=True)
class Dataset:
    """A data set that the library reads.

    Attributes:
        name: of the converter and the page.
        title: name in print.
        content: one sentence.
        home: address.
        license: license or terms of use of videos and annotation.
        license_page: address that states them; "": none was found.
        download: size of the files to download.
        layout: (path, content) of the files that the commands read.
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
    license_page: str
    download: str
    layout: tuple[tuple[str, str], ...]
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


def _clips(videos: str, source: str) -> tuple[tuple[str, str], ...]:
    """Layout of a recognition data set: pattern of the videos, folder of the annotation."""
    return ((videos, "unpacked videos"), (f"{source}/", "annotation"))


def _frame_labels(name: str) -> tuple[tuple[str, str], ...]:
    """Layout of the MS-TCN data set."""
    return (
        (f"data/{name}/features/<video>.npy", "features (2048, frames)"),
        (f"data/{name}/groundTruth/<video>.txt", "class name of each frame"),
        (f"data/{name}/splits/train.split1.bundle", "videos of each split"),
        (f"data/{name}/mapping.txt", "class numbers"),
    )


def _segments(name: str, source: str) -> tuple[tuple[str, str], ...]:
    """Layout of a detection data set on features."""
    return (
        (f"data/{name}/features/<video>.npy", "features (D, L): published, or of vidseg extract-features"),
        (source, "annotation"),
    )


_MSTCN_DOWNLOAD = "about 30 GB: features and labels of GTEA, 50Salads and Breakfast"
"""As https://github.com/yabufarha/ms-tcn states."""
_OPENTAD = "<https://github.com/sming256/OpenTAD>, `tools/prepare_data`, has links to published features."
_LINKS = "the annotation is small; the videos are on YouTube"

DATASETS = (
    Dataset(
        name="hmdb51",
        title="HMDB-51",
        content="6766 clips of 51 actions from films and the web, three divisions.",
        home="https://serre.lab.brown.edu/hmdb51.html",
        license="CC BY 4.0",
        license_page="https://serre.lab.brown.edu/hmdb51.html",
        download="about 2 GB",
        layout=_clips("videos/<class>/<video>.avi", "testTrainMulti_7030_splits"),
        hours=0,
        rate=30,
        annotation="`testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt`",
        commands=_recognition("hmdb51", source="testTrainMulti_7030_splits"),
        notes=(
            "Unpack the archive of each class, so that the videos are `videos/<class>/<video>.avi`.",
            "The splits are `split1/train`, `split1/test` and so on; the first division is the default.",
        ),
    ),
    Dataset(
        name="ucf101",
        title="UCF-101",
        content="13320 clips of 101 actions from YouTube, three divisions.",
        home="https://www.crcv.ucf.edu/data/UCF101.php",
        license="see its page; the videos are from YouTube",
        license_page="",
        download="6.5 GB",
        layout=_clips("videos/<class>/<video>.avi", "ucfTrainTestlist"),
        hours=27,
        rate=25,
        annotation="`ucfTrainTestlist/`: `classInd.txt`, `trainlist01.txt` to `testlist03.txt`",
        commands=_recognition("ucf101", source="ucfTrainTestlist"),
        notes=("Clips of one group (`_g01_`) come from one video and stay in one part of each division.",),
    ),
    Dataset(
        name="kinetics",
        title="Kinetics-200, 400, 600, 700",
        content="Clips of 10 s from YouTube: 306 245 (400), 495 547 (600) or 650 317 (700).",
        home="https://github.com/cvdfoundation/kinetics-dataset",
        license="CC BY 4.0 for the annotation; the videos belong to their uploaders",
        license_page="https://deepmind.com/research/open-source/kinetics",
        download="456 GB (400), 779 GB (600) or 710 GB (700)",
        layout=_clips("videos/<youtube_id>.mp4", "kinetics700"),
        hours=1800,
        rate=30,
        annotation="`train.csv`, `validate.csv`, `test.csv` of the release",
        commands=_recognition("kinetics", source="kinetics700", cut=("kinetics-700_train.csv", "kinetics-700_val.csv")),
        notes=(
            "`--variant 200`, `400`, `600`: another release; 200 needs the two id lists beside the files of 400.",
            "Clips that are cut already are converted from their folder, `vidseg convert videos data/kinetics`.",
            "`--size 256`, `--fps` and `--store video` save disk; several machines convert shards of it.",
        ),
    ),
    Dataset(
        name="moments",
        title="Moments in Time",
        content="About 800 000 clips of 3 s of 339 actions and events.",
        home="http://moments.csail.mit.edu",
        license="request form; see its page",
        license_page="",
        download=TERMS,
        layout=_clips("videos/<training or validation>/<class>/<video>.mp4", "Moments_in_Time_Raw"),
        hours=670,
        rate=30,
        annotation="`trainingSet.csv`, `validationSet.csv`, `moments_categories.txt`",
        commands=_recognition("moments", source="Moments_in_Time_Raw", network="mtnet_s"),
    ),
    Dataset(
        name="hacs",
        title="HACS Clips",
        content="Clips of 2 s of 200 actions from YouTube; negative samples are skipped.",
        home="https://github.com/hangzhaomit/HACS-dataset",
        license="BSD 3-Clause for the annotation; missing videos by a form with terms of use",
        license_page="https://github.com/hangzhaomit/HACS-dataset",
        download=_LINKS,
        layout=_clips("videos/<youtube_id>.mp4", "HACS_v1.1.1"),
        hours=280,
        rate=30,
        annotation="`HACS_clips_v1.1.csv` or `HACS_clips_v1.1.1.csv`",
        commands=_recognition(
            "hacs", source="HACS_v1.1.1", cut=("HACS_clips_v1.1_train.csv", "HACS_clips_v1.1_val.csv")
        ),
    ),
    Dataset(
        name="diving48",
        title="Diving-48",
        content="About 17 000 clips of 48 dives (V2).",
        home="http://www.svcl.ucsd.edu/projects/resound/dataset.html",
        license=TERMS,
        license_page="",
        download=TERMS,
        layout=_clips("videos/<video>.mp4", "Diving48"),
        hours=0,
        rate=30,
        annotation="`Diving48_V2_train.json`, `Diving48_V2_test.json`, `Diving48_vocab.json`",
        commands=_recognition("diving48", source="Diving48"),
        notes=("The videos are in one folder without classes; the catalog has them.",),
    ),
    Dataset(
        name="gtea",
        title="GTEA",
        content="28 videos of 7 activities by 4 people, 11 classes, four splits, leave one person out.",
        home="https://zenodo.org/records/3625992",
        license=TERMS,
        license_page="",
        download=_MSTCN_DOWNLOAD,
        layout=_frame_labels("gtea"),
        hours=0.6,
        rate=15,
        annotation="`mapping.txt`, `groundTruth/`, `splits/`, `features/` of the MS-TCN data set",
        commands=_segmentation("gtea"),
    ),
    Dataset(
        name="50salads",
        title="50Salads",
        content="50 videos of 25 people, 19 classes (17 actions), five splits.",
        home="https://cvip.computing.dundee.ac.uk/datasets/foodpreparation/50salads/",
        license="CC BY-NC-SA 4.0",
        license_page="https://cvip.computing.dundee.ac.uk/datasets/foodpreparation/50salads/",
        download=_MSTCN_DOWNLOAD,
        layout=_frame_labels("50salads"),
        hours=4.5,
        rate=30,
        annotation="the MS-TCN data set, or the original `activity_annotation/` with `labels/low_to_mid.txt`",
        commands=_segmentation("50salads"),
        notes=("Networks see every second column; the scores are those of all frames.",),
    ),
    Dataset(
        name="breakfast",
        title="Breakfast",
        content="1712 videos of 52 people in 18 kitchens, 48 classes, four splits.",
        home="https://serre.lab.brown.edu/breakfast-actions-dataset.html",
        license="CC BY 4.0",
        license_page="https://serre.lab.brown.edu/breakfast-actions-dataset.html",
        download=f"{_MSTCN_DOWNLOAD}; videos 3.6 GB",
        layout=_frame_labels("breakfast"),
        hours=77,
        rate=15,
        annotation="the MS-TCN data set, or the original coarse or fine annotation",
        commands=_segmentation("breakfast"),
    ),
    Dataset(
        name="egtea",
        title="EGTEA Gaze+",
        content="86 sessions of cooking, three splits of clips; verbs or actions as classes.",
        home="https://cbs.ic.gatech.edu/fpv/",
        license=TERMS,
        license_page="",
        download=TERMS,
        layout=_clips("videos/<session>.mp4", "action_annotation"),
        hours=28,
        rate=24,
        annotation="`train_split1.txt` to `test_split3.txt` with `verb_idx.txt` or `action_idx.txt`",
        commands=(
            "vidseg convert videos data/egtea --fps 24",
            "vidseg labels egtea action_annotation --dataset data/egtea",
            "vidseg extract-features data/egtea --weights recognition.pth --stride 8",
            "vidseg train segmentation data/egtea --network mstcn --labels-per-column 8 --out runs/egtea",
            "vidseg plot report runs/egtea",
        ),
        notes=("The official splits divide clips; each session goes to the part with most of its clips.",),
    ),
    Dataset(
        name="thumos14",
        title="THUMOS-14",
        content="200 validation and 213 test videos of 20 sports, used for training and test.",
        home="https://www.crcv.ucf.edu/THUMOS14/",
        license="see its page; the test videos need a form",
        license_page="",
        download=TERMS,
        layout=_segments("thumos14", "thumos14.json"),
        hours=24,
        rate=30,
        annotation="`<Class>_val.txt` and `<Class>_test.txt`, or the JSON file of G-TAD, ActionFormer or OpenTAD",
        commands=(
            "vidseg labels segments data/thumos14 thumos14.json",
            "vidseg train thumos14 data/thumos14 --network actionformer --out runs/thumos14",
            "vidseg test runs/thumos14",
        ),
        notes=(
            _OPENTAD,
            "`vidseg labels thumos14` writes frame labels instead, for segmentation.",
        ),
    ),
    Dataset(
        name="multithumos",
        title="MultiTHUMOS",
        content="65 actions, several at a time, in the 413 videos of THUMOS-14.",
        home="http://ai.stanford.edu/~syyeung/everymoment.html",
        license=TERMS,
        license_page="",
        download=TERMS,
        layout=_segments("multithumos", "multithumos/"),
        hours=30,
        rate=30,
        annotation="`annotations/<Class>.txt` with `class_list.txt`, or `multithumos.json`",
        commands=_detection("multithumos", source="multithumos", words=" --without-durations"),
        notes=(_OPENTAD,),
    ),
    Dataset(
        name="activitynet",
        title="ActivityNet-1.3",
        content="19 994 videos of 200 activities.",
        home="http://activity-net.org",
        license="see its page; the videos are on YouTube, or by a request form",
        license_page="",
        download="500 GB of videos",
        layout=_segments("activitynet", "annotation/"),
        hours=648,
        rate=15,
        annotation="`activity_net.v1-3.min.json`, or the files of BMN",
        commands=_detection("activitynet", source="annotation", words=" --on-error skip", train="activitynet"),
        notes=(
            "The maintainers give access to the videos for 7 days after a request form.",
            _OPENTAD,
            "Some segments have no length, hence `--on-error skip`.",
            "`vidseg train activitynet_pixels` trains ETAD end to end from frame databases.",
        ),
    ),
    Dataset(
        name="hacs_segments",
        title="HACS Segments",
        content="50 000 videos of the 200 activities of ActivityNet.",
        home="https://github.com/hangzhaomit/HACS-dataset",
        license="BSD 3-Clause for the annotation; missing videos by a form with terms of use",
        license_page="https://github.com/hangzhaomit/HACS-dataset",
        download=_LINKS,
        layout=_segments("hacs_segments", "HACS_v1.1.1/"),
        hours=0,
        rate=15,
        annotation="`HACS_segments_v1.1.1.json` or `HACS_segments_v1.1.json`",
        commands=_detection("hacs_segments", source="HACS_v1.1.1", train="hacs_segments"),
        notes=(_OPENTAD,),
    ),
    Dataset(
        name="fineaction",
        title="FineAction",
        content="16 732 videos of 106 fine-grained actions.",
        home="https://deeperaction.github.io/datasets/fineaction",
        license=TERMS,
        license_page="",
        download=TERMS,
        layout=_segments("fineaction", "annotation/"),
        hours=0,
        rate=15,
        annotation="`annotations_gt.json`",
        commands=_detection("fineaction", source="annotation"),
        notes=(
            "<https://github.com/Richard-61/FineAction> has the links to videos, annotation and features.",
            _OPENTAD,
        ),
    ),
    Dataset(
        name="epic_kitchens",
        title="EPIC-Kitchens-100",
        content="700 first-person videos, 97 verbs and 300 nouns.",
        home="https://epic-kitchens.github.io",
        license="CC BY-NC 4.0",
        license_page="https://github.com/epic-kitchens/epic-kitchens-100-annotations",
        download=TERMS,
        layout=_segments("epic_kitchens", "epic-kitchens-100-annotations/"),
        hours=100,
        rate=50,
        annotation="`EPIC_100_train.csv`, `EPIC_100_validation.csv`, `EPIC_100_video_info.csv`, the class lists",
        commands=_detection("epic_kitchens", source="epic-kitchens-100-annotations", words=" --level verb"),
        notes=(
            _OPENTAD,
            "`--level noun` and `action` have other classes.",
        ),
    ),
    Dataset(
        name="charades",
        title="Charades",
        content="9848 videos of 157 everyday actions, several at a time.",
        home="https://prior.allenai.org/projects/charades",
        license="non-commercial research, own license",
        license_page="https://prior.allenai.org/projects/data/charades/license.txt",
        download="13 GB at 480 pixels, 55 GB in original size",
        layout=_segments("charades", "Charades/"),
        hours=82,
        rate=24,
        annotation="`Charades_v1_train.csv`, `Charades_v1_test.csv`, `Charades_v1_classes.txt`",
        commands=_detection("charades", source="Charades"),
        notes=(_OPENTAD,),
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
        ("license", f"[{data.license}]({data.license_page})" if data.license_page else data.license),
        ("download", data.download),
        ("annotation", data.annotation),
    ]
    if frames:
        facts += [
            ("video", f"about {data.hours:g} hours, {frames / 1e6:,.1f} million frames at {data.rate:g} per second"),
            ("frame databases", f"about {_disk(data)} at 340x256; `--store video` takes a seventh"),
            ("conversion", f"about {frames / FRAMES_PER_SECOND / 3600:,.1f} hours on two cores, plus the download"),
        ]
    else:
        hourly = 3600 * data.rate
        facts += [
            ("frame databases", f"about {hourly * KILOBYTES / 1e6:.1f} GB for an hour of video at 340x256"),
            ("conversion", f"about {hourly / FRAMES_PER_SECOND:.0f} s for an hour of video on two cores"),
        ]
    files = list(data.layout)
    if any(line.startswith("vidseg convert") for line in data.commands):
        files.append((f"data/{data.name}/jpg/<class>/<video>/frames.db", "written by vidseg convert"))
    width = max(len(path) for path, _ in files)
    layout = [f"{path:{width}}  {content}" for path, content in files]
    lines = [f"# {data.title}", "", "| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in facts), ""]
    lines += ["## Layout", "", "The commands read and write these files:", "", "```text", *layout, "```", ""]
    lines += ["## From the files to a score", "", "```text", *data.commands, "```", ""]
    if files == list(data.layout):
        lines += ["Features need no frame databases; extracting features and training from pixels do.", ""]
    lines += [*(f"- {note}" for note in data.notes), ""] if data.notes else []
    estimate = "Disk and conversion time are estimated from the README's measurements, not measured on this data set."
    return "\n".join([*lines, estimate, ""])
