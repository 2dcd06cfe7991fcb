"""What can be trained, by the name of its policy."""

from tiny.network import Subject
from tiny.prismatic import TinyOFT, TinyOpenVLA
from tiny.smolvla import TinySmolVLA

SUBJECTS: dict[str, type[Subject]] = {
    subject.policy.name: subject for subject in (TinyOFT, TinyOpenVLA, TinySmolVLA)
}
