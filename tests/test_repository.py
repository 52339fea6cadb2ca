"""Files for people and services around the code."""

import re
from datetime import date

import pytest
import yaml

from keras_squeezenet import __version__
from tests.pages import PROJECT

# Of the Citation File Format 1.2.0: what it asks for, and the keys that this file uses.
CITATION_KEYS = {"cff-version", "message", "title", "authors"}
OPTIONAL_KEYS = {"abstract", "type", "version", "license", "keywords", "references"}
REFERENCE_KEYS = {"type", "title", "authors"}
OPTIONAL_REFERENCE_KEYS = {"year", "url", "identifiers"}


def yaml_of(name):
    return yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))


def check_authors(authors):
    assert authors
    for author in authors:
        assert set(author) in ({"name"}, {"family-names", "given-names"})
        assert all(isinstance(part, str) and part for part in author.values())


def test_the_citation_is_one():
    citation = yaml_of("CITATION.cff")
    assert set(citation) >= CITATION_KEYS
    assert set(citation) <= CITATION_KEYS | OPTIONAL_KEYS
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert str(citation["version"]) == __version__
    assert f"license = {citation['license']}" in (PROJECT / "setup.cfg").read_text()
    check_authors(citation["authors"])


def test_both_papers_are_cited():
    references = yaml_of("CITATION.cff")["references"]
    for reference in references:
        assert set(reference) >= REFERENCE_KEYS
        assert set(reference) <= REFERENCE_KEYS | OPTIONAL_REFERENCE_KEYS
        check_authors(reference["authors"])
        assert 2015 < reference["year"] <= date.today().year
        (identifier,) = reference["identifiers"]
        assert reference["url"].endswith(identifier["value"].removeprefix("arXiv:"))
    titles = " ".join(reference["title"] for reference in references)
    assert "SqueezeNet" in titles
    assert "Deep Compression" in titles


@pytest.fixture
def jobs():
    return yaml_of(".github/workflows/tests.yml")["jobs"]


def test_every_push_and_pull_request_is_tested():
    # YAML 1.1 reads the key `on` as true.
    triggers = yaml_of(".github/workflows/tests.yml")[True]
    assert set(triggers) == {"push", "pull_request"}


def test_ubuntu_runs_what_ci_runs(jobs):
    steps = [step.get("run", "") for step in jobs["ubuntu"]["steps"]]
    assert steps[-1].startswith("sudo ")  # namespaces are the superuser's
    assert steps[-1].endswith(" .ci/run")
    assert (PROJECT / ".ci/run").stat().st_mode & 0o111
    # The packages of .ci/run, but for kubectl, which has a step of its own.
    named = re.findall(r"missing\+=\(([^)]*)\)", (PROJECT / ".ci/run").read_text())
    packages = {package for group in named for package in group.split()} - {"kubernetes-client"}
    assert len(packages) == 5
    assert packages <= set(" ".join(steps).split())


def test_the_oldest_versions_are_tested_too(jobs):
    assert jobs["lowest"]["steps"][-1] == {"run": "make test-lowest"}


def test_macos_runs_the_quick_tests_without_horovod(jobs):
    assert jobs["macos"]["runs-on"].startswith("macos")
    assert jobs["macos"]["steps"][-1] == {"run": "make test HOROVOD="}


def test_every_action_has_its_version(jobs):
    for job in jobs.values():
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
