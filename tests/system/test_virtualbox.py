"""The Vagrantfile, read by Ruby with a Vagrant that only writes down what it is told."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.topology import MACHINES, OUTSIDE

FOLDER = Path(__file__).parents[2] / "config/virtualbox"
# Every call is kept, and a block gets what keeps the calls of its own.
VAGRANT = r"""
require "json"
class Kept
  attr_reader :calls
  def initialize; @calls = []; end
  def method_missing(name, *words, **options, &block)
    own = Kept.new
    @calls << [name.to_s.chomp("="), words.map(&:to_s), options, own]
    block&.call(own) || own
    own
  end
  def respond_to_missing?(*) = true
  def to_json(*) = @calls.to_json
end
module Vagrant
  def self.configure(version)
    raise version unless version == "2"
    yield kept = Kept.new
    puts kept.to_json
  end
end
load ARGV[0]
"""

pytestmark = pytest.mark.skipif(shutil.which("ruby") is None, reason="ruby is not installed")


def test_it_makes_the_machines_of_the_cluster(tmp_path):
    (tmp_path / "vagrant.rb").write_text(VAGRANT)
    said = subprocess.run(
        ["ruby", "-W", tmp_path / "vagrant.rb", FOLDER / "Vagrantfile"], capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    calls = json.loads(said.stdout)
    # As of `config.vm.define`: a method of what `vm` gives.
    of_all = [call for name, _, _, own in calls if name == "vm" for call in own]
    made = {}
    for name, words, _, own in of_all:
        if name == "define":
            made[words[0]] = [call for vm, _, _, inner in own if vm == "vm" for call in inner]
    assert made.keys() == MACHINES.keys()
    order = [*made]
    assert (order[0], order[-3:]) == ("nas", ["master", "standby", "client"])
    assert ("box", ["debian/bookworm64"]) in [(name, words) for name, words, _, _ in of_all]

    for name, machine in MACHINES.items():
        told = made[name]
        assert [words for key, words, _, _ in told if key == "hostname"] == [[name]]
        networks = [(words, options) for key, words, options, _ in told if key == "network"]
        assert len(networks) == len(machine.cards)
        for (words, options), card in zip(networks, machine.cards, strict=True):
            assert words == ["private_network"]
            assert options["ip"] == card.address
            assert options["virtualbox__intnet"] == ("outside" if card.network is OUTSIDE else "inside")
            # What the director's leases go by.
            if card.dhcp:
                assert options["mac"] == card.mac.replace(":", "")
        (provisioned,) = [(words, options) for key, words, options, _ in told if key == "provision"]
        assert provisioned == (
            ["shell"], {"path": "provision.sh", "args": [machine.kind, "/usr/src/pybalancer"]},
        )  # fmt: skip
    assert (FOLDER / "provision.sh").is_file()


def test_a_machine_is_told_what_it_can_be():
    done = subprocess.run(
        ["bash", FOLDER / "provision.sh", "printer", "/tmp"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "no such role: printer\n")
