"""Claims: facts are right where they can be had, and missing ones do not stop a report."""

import subprocess

from nanolab.report import document
from nanolab.tracking import environment


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_git_facts_name_branch_commit_and_a_changed_tracked_file(tmp_path):
    git(tmp_path, "init", "-b", "work")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "Add a\n\nand say why")
    facts = environment.git_facts(tmp_path)
    assert facts == {
        "branch": "work",
        "commit": facts["commit"],
        "dirty": False,
        "message": "Add a",
    }
    assert len(facts["commit"]) == 40
    (tmp_path / "a.py").write_text("x = 2\n")
    assert environment.git_facts(tmp_path)["dirty"] is True


def test_bloat_counts_tracked_files_of_the_named_kinds_only(tmp_path):
    git(tmp_path, "init")
    for name, content in {
        "a.py": "12345\n",
        "Makefile": "all:\n",
        "b.txt": "no",
        "requirements.lock": "a==1\nb==2\n",
    }.items():
        (tmp_path / name).write_text(content)
    git(tmp_path, "add", ".")
    (tmp_path / "untracked.py").write_text("no")
    assert environment.bloat(tmp_path) == {
        "characters": 11,
        "lines": 2,
        "files": 2,
        "tokens": 2,
        "lock_file": "requirements.lock",
        "lock_lines": 2,
    }


def test_a_folder_without_git_still_gives_a_report(tmp_path):
    facts = environment.capture({}, tmp_path)
    assert facts["git"]["commit"] is None and facts["bloat"]["files"] is None
    report = document.render({"title": "t", "generated": "now", "environment": facts, "steps": {}})
    assert "- Commit: -\n" in report and "- Files: -\n" in report


def test_a_machine_without_git_and_nvidia_smi_has_no_such_facts(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = environment.capture({"H100": 3.0})
    assert facts["git"]["branch"] is None
    assert facts["hardware"]["gpu_count"] == 0 and facts["hardware"]["hourly_rate"] is None
    assert facts["hardware"]["logical"] >= 1 and facts["software"]["torch"]


def test_gpu_facts_add_up_over_devices_and_the_longest_rate_key_decides():
    banner = "| NVIDIA-SMI 550  Driver 550  CUDA Version: 12.1 |"
    facts = environment.gpu_facts(
        "NVIDIA H100, 81920\n" * 8, banner, {"H100": 3.0, "H1": 1.0, "A100": 2.0}
    )
    assert facts == {
        "gpu_name": "NVIDIA H100",
        "gpu_count": 8,
        "gpu_memory_gb": 640.0,
        "cuda": "12.1",
        "hourly_rate": 24.0,
    }


def test_an_unknown_device_has_no_rate():
    assert environment.gpu_facts("Some GPU, [N/A]\n", "", {"H100": 3.0}) == {
        "gpu_count": 1,
        "gpu_name": "Some GPU",
        "gpu_memory_gb": None,
        "cuda": None,
        "hourly_rate": None,
    }
