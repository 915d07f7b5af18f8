"""What to do next, from measured facts of a recognition run: sentences with numbers, the most useful first."""

from __future__ import annotations

from vidseg.labels.counting import counted
from vidseg.learn.facts import Facts, accuracy_range

__all__ = ["next_steps"]

_FEW = 30  # training videos of a class
_GAP = 0.15  # of training and test accuracy
_UNBALANCED = 3  # videos of the largest class for one of the smallest
_LATE = 0.9  # share of the epochs from which the best one is late


def next_steps(facts: Facts, *, pretrained: bool, out: str) -> list[str]:
    """Return advice in the order of its likely effect.

    Args:
        facts: of `measure_facts`.
        pretrained: whether training began from published weights.
        out: folder of `vidseg learn`, for commands.
    """
    advice = []
    low, high = accuracy_range(facts.test, facts.tested)
    chance = 1 / max(1, len(facts.per_class))
    if facts.failed:
        advice.append(
            f"Repair or remove {counted(len(facts.failed), 'file')} that could not be read: "
            f"{_some([one.partition(': ')[0] for one in facts.failed])}. The reasons are below."
        )
    if facts.suspicious:
        shown = [f"{video} (labeled {label}, predicted {other} at {p:.0%})" for video, label, other, p in
                 facts.suspicious]  # fmt: skip
        advice.append(
            f"Look at {counted(len(facts.suspicious), 'video')} whose label the network contradicts with high "
            f"confidence, as the label may be wrong: {_some(shown)}."
        )
    if facts.test <= chance * 1.25:
        advice.append(
            f"The test accuracy of {facts.test:.0%} is near chance ({chance:.0%}): check that the classes differ in "
            "what a clip shows, and that labels and videos belong together."
        )
    if not pretrained and min(facts.per_class.values()) < _FEW:
        advice.append(
            f"Start from published weights: with {min(facts.per_class.values())} to {max(facts.per_class.values())} "
            "training videos per class, they usually help more than anything else. `vidseg models torchvision_r3d_18` "
            "shows where to fetch them; then add --pretrained kinetics400 --network torchvision_r3d_18."
        )
    few = {name: count for name, count in facts.per_class.items() if count < _FEW}
    if few:
        advice.append(
            f"Add videos: {counted(len(few), 'class has', 'classes have')} fewer than {_FEW} training videos, fewest "
            f"{_some([f'{name} {count}' for name, count in sorted(few.items(), key=lambda one: one[1])])}. Different "
            "scenes, people and cameras help more than similar takes."
        )
    smallest, largest = min(facts.per_class.values()), max(facts.per_class.values())
    if largest >= _UNBALANCED * max(1, smallest):
        names = {name: count for name, count in facts.per_class.items() if count * _UNBALANCED <= largest}
        advice.append(
            f"Balance the classes: the largest has {largest} training videos, {_some(sorted(names))} at most a third "
            "of that. Judge by the mean class accuracy, which counts classes alike."
        )
    if facts.train - facts.test > _GAP:
        advice.append(
            f"The network overfits: {facts.train:.0%} of the training videos are right and {facts.test:.0%} of the "
            "test videos. More videos, published weights, a smaller network (--network-option width=0.125), or more "
            "augmentation (--train-option mixup=0.4) reduce the gap."
        )
    elif facts.train < 0.8:
        advice.append(
            f"The network underfits: only {facts.train:.0%} of the training videos are right. Train longer (--epochs), "
            "with larger frames (--size), or with a larger network (--network)."
        )
    if facts.best_epoch is not None and facts.best_epoch[0] >= _LATE * facts.best_epoch[1] and facts.test < 0.95:
        advice.append(
            f"Train longer: the best epoch is {facts.best_epoch[0]} of {facts.best_epoch[1]}, so the network "
            f"still improved at the end (--epochs {2 * facts.best_epoch[1]})."
        )
    if facts.confused:
        true, predicted, count = facts.confused[0]
        advice.append(
            f"The most confused pair is {true} predicted as {predicted} ({counted(count, 'test video')}): compare "
            "their videos below, add videos of both, or merge the classes if they mean the same."
        )
    if facts.short:
        advice.append(
            f"{counted(facts.short, 'video is', 'videos are')} shorter than the {facts.clip} frames that a clip "
            "covers: use a smaller --interval or fewer --frames, or leave them out."
        )
    if facts.small:
        advice.append(
            f"{counted(facts.small, 'video has', 'videos have')} frames smaller than the clips, which are enlarged: "
            "use a smaller --size or better copies."
        )
    if facts.blurred:
        advice.append(
            f"{counted(len(facts.blurred), 'video is', 'videos are')} far less sharp than the others (middle frame): "
            f"{_some(facts.blurred)}. Check that they show what their label says."
        )
    advice.append(
        f"With {counted(facts.tested, 'test video')} the accuracy of {facts.test:.1%} is known to lie between "
        f"{low:.0%} and {high:.0%} only (95 % interval); differences within that range mean nothing."
        + (" The test videos also selected the epoch, so it is optimistic." if facts.selected_on else "")
    )
    advice.append(f"Use the network: vidseg predict VIDEO --weights {out}")
    return advice


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
