"""Memory that outlives the program that made it."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys

import pytest

from balancer.pool import shared

READER = """
import sys
from balancer.pool import shared
memory = shared.attach(int(sys.argv[1]), 8192)
print(bytes(memory[5000:5005]).decode())
memory[0:3] = b"yes"
"""


def test_what_is_written_is_there_for_another_program():
    memory = shared.allocate(8192)
    assert bytes(memory[:]) == bytes(8192)
    memory[5000:5005] = b"hello"
    file = shared.file_of(memory)
    words = [sys.executable, "-c", READER, str(file)]
    assert subprocess.run(words, pass_fds=[file], capture_output=True, check=True, text=True).stdout == "hello\n"
    assert memory[0:3] == b"yes"
    assert memory.find(b"hello") == 5000


def test_those_who_are_forked_share_it_and_may_forget_the_file():
    memory = shared.allocate(100)
    file = shared.file_of(memory)
    pid = os.fork()
    if not pid:
        shared.forget()
        memory[0] = 7
        try:
            os.fstat(file)
        except OSError:
            memory[1] = 8
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory[0:2] == bytes((7, 8))
    assert os.fstat(file)


def test_the_file_goes_with_the_last_reference():
    memory = shared.allocate(4096)
    file = shared.file_of(memory)
    view = memoryview(memory)[5:6]
    del memory
    gc.collect()
    assert os.fstat(file)
    del view
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(file)
    assert file not in shared.files()


def test_memory_of_others_and_what_is_too_short_is_refused():
    with pytest.raises(KeyError):
        shared.file_of(mmap.mmap(-1, 4096))
    file = os.memfd_create("short")
    with pytest.raises(OSError, match="shorter"):
        shared.attach(file, 4096)
    os.close(file)
