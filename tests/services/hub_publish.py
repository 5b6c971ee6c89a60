"""Commit the files of a repository of the Hub stand-in and show the commit: hub_publish.py DATA_DIR ORG/NAME.

olah answers the API from the git repository, nginx the files from DATA_DIR/files/ORG/NAME/COMMIT. There each path is a
link to DATA_DIR/shown/COMMIT/OID/, which holds the content as `data`: nginx takes commit and ETag from
the target of the link. Prints the commit.
"""

import os
import shutil
import subprocess
import sys

data_dir, name = os.path.realpath(sys.argv[1]), sys.argv[2]
repo = os.path.join(data_dir, "mirror", "datasets", name)
shown = os.path.join(data_dir, "files", name)


def git(*args: str) -> str:
    """The output of a git command in the repository."""
    settings = ("user.name=hub", "user.email=hub@example.invalid", "core.autocrlf=false", "gc.auto=0")
    command = ["git", "-C", repo, *(word for setting in settings for word in ("-c", setting)), *args]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


if not os.path.isdir(os.path.join(repo, ".git")):
    os.makedirs(repo, exist_ok=True)
    git("init", "-q", "-b", "main")
git("add", "-Af")
git("commit", "-q", "--allow-empty", "-m", "files")
commit = git("rev-parse", "HEAD").strip()
folder = os.path.join(shown, commit)
os.makedirs(folder, exist_ok=True)
for entry in filter(None, git("ls-tree", "-r", "-z", "HEAD").split("\0")):
    facts, _, path = entry.partition("\t")
    blob = os.path.join(data_dir, "shown", commit, facts.split(" ")[2])
    if not os.path.isdir(blob):
        os.makedirs(blob)
        shutil.copyfile(os.path.join(repo, path), os.path.join(blob, "data"))
    link = os.path.join(folder, path)
    os.makedirs(os.path.dirname(link), exist_ok=True)
    if not os.path.islink(link):
        os.symlink(blob, link)
fresh = os.path.join(shown, "main.new")
os.symlink(commit, fresh)
os.replace(fresh, os.path.join(shown, "main"))
sys.stdout.write(f"{commit}\n")
