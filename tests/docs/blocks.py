"""Blocks of code in Markdown, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    if not {"_build", "commands"} & set(path.relative_to(ROOT).parts)
)
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<marks>```+)(?P<language>[\w-]*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)(?P=marks)$",
    re.MULTILINE | re.DOTALL,
)
SHELL = ("sh", "bash", "console", "shell")
PROGRAMS = {
    "flctl", "make", "pip", "python", "python3", "docker", "git", "ssh", "scp", "cd", "wget", "ray",
    "ansible-playbook", "ansible", "ansible-vault", "openssl", "sudo", "curl", "jq", "tensorboard",
    "cp", "cat", "export", "mkdir", "umask", "apt-get", "kill", "chmod", "ssh-copy-id", "tar", "rm",
    "man", "age-keygen", "rsync", "source", ".", "!", "systemctl", "journalctl", "nmcli", "echo",
    "for", "do", "done", "ls", "grep", "head", "sed", "awk", "tee", "nano", "ping", "ip", "wg",
    "ssh-keygen", "ansible-inventory", "ansible-galaxy", "chown", "mv", "sleep", "timedatectl",
    "crontab", "until", "install", "unzip", "exit", "date", "wait", "pkill",
    "rpicam-still",
}  # fmt: skip
"""What a command in a page may begin with."""
PLACEHOLDER = re.compile(r"…|^<.*>$|^[A-Z][A-Z0-9_./|:-]*$|\$")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    before: str = ""
    """The text since the block before."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text, end = page.read_text(), 0
    for found in _FENCE.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] for line in found["text"].splitlines(keepends=True))
        line = text.count("\n", 0, found.start()) + 2
        yield Block(page, line, found["language"], body, text[end : found.start()])
        end = found.end()


def inline(page: Path) -> list[str]:
    """Code within the text."""
    return [
        " ".join(each.split())
        for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", _FENCE.sub("", page.read_text()))
    ]


def is_shell(block: Block) -> bool:
    """A block without a language is, if it begins with a program that is known."""
    if block.language:
        return block.language in SHELL and not block.text.startswith("#!")
    first = next((line for line in lines(block.text) if line), "")
    if re.match(r"for .* do$|\. \S+/activate$", first):
        return True
    return program(first.split()[0] if first else "") in PROGRAMS - {"!", ".", "for", "ip"}


def lines(text: str) -> Iterator[str]:
    """Commands as they are typed: whole, without prompts and comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    if re.search(r"^\$ ", joined, re.MULTILINE):  # with what they print
        joined = "\n".join(re.findall(r"^\$ (.*)$", joined, re.MULTILINE))
    open_ = ""
    for line in joined.splitlines():
        bare = open_ + re.sub(r"(^|\s)#(\s.*)?$", "", line).strip()
        if bare.count("'") % 2 and '"' not in bare:  # goes on in the next line
            open_ = bare + " "
        elif bare:
            open_ = ""
            yield bare


def program(word: str) -> str:
    return word.rsplit("/", 1)[-1].lstrip("(")


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line of shell, as words; redirections are left out."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from commands(inner)
    line = re.sub(r"\$\([^()]*\)", "$X", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    skip = False
    for word in lexer:
        if set(word) <= set("();|&"):
            yield from _inner(words)
            words = []
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)
    yield from _inner(words)


def _inner(words: list[str]) -> Iterator[list[str]]:
    """What `ssh HOST '…'` and `$(…)` carry out is a command, too."""
    if words:
        yield words
    for word in words:
        if program(words[0]) in ("ssh", "bash", "sh") and " " in word:
            for line in lines(word):
                yield from commands(line)


def of_flctl(words: list[str]) -> list[str] | None:
    """Arguments of flctl in these words, if it is what they run."""
    for at, word in enumerate(words):
        if word == "flctl" or word.endswith("/bin/flctl"):
            before = words[:at]
            if (
                not before
                or program(before[0]) in ("sudo", "docker", "ssh", "!", "kubectl", "time")
                or all("=" in b for b in before)
            ):
                return words[at + 1 :]
            return None
    return None
