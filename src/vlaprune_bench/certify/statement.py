"""What a certificate says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def statement(made: Mapping[str, Any]) -> str:
    """What the certificate says, in one plain paragraph."""
    design, setting = made["design"], made["setting"]
    share = f"{100 * design['budget']:g} %"
    if design["estimand"] == "joint":
        loses = f"fails where none succeeds on less than {share} of all scenes (joint, the weaker)"
    else:
        loses = f"loses less than {share} of the scenes that none solves (conditional)"
    name = f"{setting['checkpoint']} on {made['population']}"
    sure = f"{100 * design['confidence']:g} % confidence"
    tested = [one for one in made["candidates"] if "wealth" in one]
    good = [one for one in tested if one["decision"] == "certified"]
    parts = []
    if good:
        best = good[-1]
        parts.append(
            f"With {sure} {best['label']} {loses}, for {name}: certified after {_count(best)}."
        )
        if len(good) > 1:
            names = ", ".join(one["label"] for one in good[:-1])
            parts.append(f"So do the milder ones before it: {names}.")
    else:
        parts.append(
            f"Nothing is certified: of no candidate is it shown with {sure} that it {loses}, for "
            f"{name}."
        )
    parts += [
        f"{one['label']} is not certified after {_count(one)}{_given_up(one)}: its wealth reached "
        f"{one['wealth_most']:.3g} of the {one['wealth_needed']:.3g} needed; these scenes show "
        f"a loss below {100 * one['loss_below']:g} %."
        for one in tested
        if one["decision"] != "certified"
    ]
    skipped = [one["label"] for one in made["candidates"] if one["decision"] == "not tested"]
    if skipped:
        parts.append(f"Not tested, since one before was not certified: {', '.join(skipped)}.")
    if not setting["checkpoint_trained"]:
        parts.append("The checkpoint is untrained: its success means nothing.")
    return " ".join(parts)


def _given_up(one: Mapping[str, Any]) -> str:
    if one["scenes"] == one["scenes_allowed"]:
        return ""
    return f", when {one['scenes_allowed']} in all could not have sufficed any more"


def _count(one: Mapping[str, Any]) -> str:
    errors = one["candidate_errors"] + one["reference_errors"]
    failed = (
        f", {one['candidate_errors']} errors of the candidate and {one['reference_errors']} of the "
        "reference among them"
        if errors
        else ""
    )
    return (
        f"{one['scenes']} scenes ({one['candidate_episodes']} episodes of it, "
        f"{one['reference_episodes']} of none{failed}), {one['lost']} lost"
    )


def page(made: Mapping[str, Any]) -> str:
    """The certificate to be read: one paragraph, what was tested, what it rests on; Markdown."""
    design, setting = made["design"], made["setting"]
    rest = f", and on a share of {design['fraction']:g} of the rest"
    rest = rest if design["estimand"] == "conditional" else ""
    lines = [f"# Certificate: {made['decision']}", "", made["statement"], ""]
    lines += ["| candidate | decision | scenes | lost | episodes: it + none | loss below |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    for one in made["candidates"]:
        if "wealth" not in one:
            lines.append(f"| {one['label']} | {one['decision']} | | | | |")
            continue
        lines.append(
            f"| {one['label']} | {one['decision']} | {one['scenes']} | {one['lost']} | "
            f"{one['candidate_episodes']} + {one['reference_episodes']} | "
            f"{100 * one['loss_below']:g} % |"
        )
    lines += ["", f"Loss: {made['estimand']}. R: none solves the scene; C: the candidate does.", ""]
    lines += [
        f"Loss below: an upper limit at {100 * design['confidence']:g} % confidence for that "
        "candidate alone, valid whenever one stops.",
        "",
        f"Ordered by {made['order']}. The reference ran where the candidate failed{rest}.",
        "",
        "Assumed:",
        "",
        *(f"- {sentence}" for sentence in made["assumptions"]),
        "",
        f"Setting: {', '.join(f'{k} {v}' for k, v in setting.items() if v != '')}.",
        "",
        f"Hardware: {'; '.join(made['hardware'])}. Revisions: {', '.join(made['git_revisions'])}.",
    ]
    return "\n".join(lines) + "\n"
