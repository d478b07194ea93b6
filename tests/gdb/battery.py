"""What a debugger must be able to do, tried by gdb itself: `gdb-multiarch -batch -nx -x battery.py`.

GUEST is payload or linux, WHERE what `target remote` connects to, SYMBOLS a file with the guest's symbols, PART the part to be tried.
Each check prints a line: `ok NUMBERS WHAT` or `not ok WHAT: WHY`. The numbers are those of docs/debugging.md, "What is tried".
"""

import os
import re
import signal
import threading

import gdb

GUEST = os.environ["GUEST"]
PART = os.environ["PART"]
CPUS = 4


def run(command):
    return gdb.execute(command, to_string=True)


def value(expression):
    # A register of flags can't be cast.
    return int(run(f"output/x {expression}"), 16)


def symbol(name):
    """The address of the one function or variable whose last part is this."""
    kind = "variables" if name.isupper() or name in ("jiffies_64",) else "functions"
    pattern = re.compile(r"^(0x[0-9a-f]+)\s+(?:.*::)?" + re.escape(name) + r"$", re.M)
    found = set(pattern.findall(run(f"info {kind} {name}$")))
    assert len(found) == 1, f"{name}: {sorted(found)}"
    return int(found.pop(), 16)


def word(address):
    return int.from_bytes(gdb.selected_inferior().read_memory(address, 8).tobytes(), "little")


def poke(address, text):
    gdb.selected_inferior().write_memory(address, text)


def pc():
    return value("$pc")


def cpu():
    return gdb.selected_thread().num - 1


def stop_of(command):
    """What stopped the guest."""
    stops = []
    gdb.events.stop.connect(stops.append)
    try:
        run(command)
    finally:
        gdb.events.stop.disconnect(stops.append)
    assert stops, f"{command}: no stop"
    return stops[-1]


CHECKS = []


def check(*parts, numbers=()):
    def register(function):
        if PART in parts:
            CHECKS.append((function, numbers))
        return function

    return register


# What a CPU does again and again, something that it stores to then, and something that it loads.
if GUEST == "payload":
    AGAIN, STORED, LOADED = "turn", "TURNS", "ENDS"
    SET_UP = "come_online"
    OUTERMOST = ("::come_up ()",)
else:
    AGAIN, STORED, LOADED = "default_idle_call", "jiffies_64", "jiffies_64"
    SET_UP = "start_kernel"
    # Of the idle task, and of a kernel thread.
    OUTERMOST = ("secondary_start_kernel ()", "ret_from_fork ()")


@check("reset", numbers=[2])
def attached_before_reset():
    assert cpu() == 0
    assert value("$SCTLR_EL1") & 1 == 0, "the MMU is on"
    assert value("$cpsr") & 0x3C0 == 0x3C0


@check("reset", "running", "again", numbers=[5])
def all_vcpus_are_threads():
    listed = run("info threads")
    for number in range(CPUS):
        assert f"(CPU {number}: " in listed, listed


@check("running", numbers=[1])
def attached_while_it_runs():
    assert value("$SCTLR_EL1") & 1 == 1


@check("again", numbers=[4])
def attached_again():
    to_the_loop()


@check("reset", numbers=[11])
def a_breakpoint_before_the_mmu_is_on():
    # The first instructions branch away.
    for _ in range(3):
        run("stepi")
    while word(pc()) >> 26 & 7 == 5:
        run("stepi")
    expected = pc() + 4
    run(f"thbreak *{expected:#x}")
    run("continue")
    assert pc() == expected, hex(pc())
    assert value("$SCTLR_EL1") & 1 == 0


@check("reset", numbers=[12])
def a_breakpoint_by_symbol_set_before_reset():
    at = symbol(SET_UP)
    run(f"hbreak *{at:#x}")
    run("continue")
    assert pc() == at, hex(pc())
    run("delete")
    assert value("$SCTLR_EL1") & 1 == 1


@check("reset", numbers=[8])
def core_registers_go_there_and_back():
    names = [f"x{number}" for number in range(31)] + ["sp", "pc"]
    before = {name: value(f"${name}") for name in names}
    flags = value("$cpsr")
    for number, name in enumerate(names[:31]):
        run(f"set ${name} = {0x1111_0000_0000_0000 + number:#x}")
    run(f"set $sp = {before['sp'] - 64:#x}")
    run(f"set $cpsr = {flags ^ 0xF000_0000:#x}")
    run("maintenance flush register-cache")
    for number, name in enumerate(names[:31]):
        assert value(f"${name}") == 0x1111_0000_0000_0000 + number, name
    assert value("$sp") == before["sp"] - 64
    assert value("$cpsr") == flags ^ 0xF000_0000
    for name in names:
        run(f"set ${name} = {before[name]:#x}")
    run(f"set $cpsr = {flags:#x}")
    run("maintenance flush register-cache")
    assert {name: value(f"${name}") for name in names} == before


@check("reset", numbers=[9])
def vector_registers_go_there_and_back():
    before = [run(f"p/x $v{number}.q") for number in range(32)]
    for number in range(32):
        run(f"set $v{number}.d.u[0] = {0x0123_4567_89AB_0000 + number:#x}")
        run(f"set $v{number}.d.u[1] = {0x7654_3210_0000_0000 + number:#x}")
    run("maintenance flush register-cache")
    for number in range(32):
        assert value(f"$v{number}.d.u[0]") == 0x0123_4567_89AB_0000 + number
        assert value(f"$v{number}.d.u[1]") == 0x7654_3210_0000_0000 + number
    run("set $fpsr = 0x8000000")
    run("maintenance flush register-cache")
    assert value("$fpsr") == 0x8000000
    run("set $fpsr = 0")
    assert len(before) == 32


@check("reset", numbers=[10])
def system_registers_are_there():
    for name in """ELR_EL1 SPSR_EL1 ESR_EL1 FAR_EL1 VBAR_EL1 TTBR0_EL1 TTBR1_EL1 TCR_EL1 SCTLR_EL1 MAIR_EL1 TPIDR_EL0 TPIDRRO_EL0
            TPIDR_EL1 SP_EL0 SP_EL1 CONTEXTIDR_EL1 PAR_EL1 MDSCR_EL1 MPIDR_EL1 CNTVCT_EL0 DAIF ICC_PMR_EL1 ICC_RPR_EL1
            pauth_dmask pauth_cmask""".split():
        value(f"${name}")
    assert value("$VBAR_EL1") & 0x7FF == 0
    assert value("$MPIDR_EL1") & 0xFF == cpu()
    before = value("$FAR_EL1")
    run("set $FAR_EL1 = 0x1234")
    run("maintenance flush register-cache")
    assert value("$FAR_EL1") == 0x1234
    run(f"set $FAR_EL1 = {before:#x}")
    earlier = value("$CNTVCT_EL0")
    run("maintenance flush register-cache")
    assert value("$CNTVCT_EL0") >= earlier


@check("running", numbers=[13])
def a_breakpoint_does_not_disturb_memory():
    at = symbol(AGAIN)
    before = word(at)
    run(f"break *{at:#x}")
    run("continue")
    assert pc() == at
    assert word(at) == before
    run("delete")


@check("running", numbers=[14])
def a_breakpoint_is_hit_by_each_vcpu():
    run(f"break *{symbol(AGAIN):#x}")
    seen = set()
    for _ in range(400):
        run("continue")
        seen.add(cpu())
        if len(seen) == CPUS:
            break
    run("delete")
    assert len(seen) == CPUS, seen


def watched(command, name, store):
    at = symbol(name)
    if GUEST == "payload" and store:
        at += 8 * 2
    breakpoint = f"{command} *(unsigned long *){at:#x}"
    run(breakpoint)
    before = word(at)
    stop = stop_of("continue")
    assert isinstance(stop, gdb.BreakpointEvent), stop
    by = cpu()
    after = word(at)
    run("delete")
    return before, after, by


@check("running", numbers=[15, 18])
def a_watchpoint_on_stores_tells_address_and_vcpu():
    before, after, by = watched("watch", STORED, True)
    assert after != before
    if GUEST == "payload":
        assert by == 2, f"CPU {by} stores to CPU 2's word"


@check("running", numbers=[16])
def a_watchpoint_on_loads():
    watched("rwatch", LOADED, False)


@check("running", numbers=[17])
def a_watchpoint_on_either():
    watched("awatch", STORED, True)


@check("running", numbers=[7])
def scheduler_locking_steps_one_vcpu():
    run("set scheduler-locking on")
    others = {}
    for thread in gdb.selected_inferior().threads():
        if thread.num != gdb.selected_thread().num:
            others[thread.num] = None
    mine = gdb.selected_thread().num
    for number in others:
        run(f"thread {number}")
        others[number] = pc()
    run(f"thread {mine}")
    for _ in range(10):
        run("stepi")
    for number, at in others.items():
        run(f"thread {number}")
        assert pc() == at, f"CPU {number - 1} has moved"
    run(f"thread {mine}")
    run("set scheduler-locking replay")


def to_the_loop():
    run(f"tbreak *{symbol(AGAIN):#x}")
    run("continue")


@check("running", numbers=[19])
def a_thousand_steps_under_a_timer_see_no_vector():
    to_the_loop()
    run("set scheduler-locking on")
    vectors = value("$VBAR_EL1")
    mine = cpu()
    entered = 0
    for _ in range(1000):
        run("stepi")
        if vectors <= pc() < vectors + 0x800:
            entered += 1
    run("set scheduler-locking replay")
    assert cpu() == mine
    assert entered == 0, f"{entered} entries"


def with_instruction(code, try_it):
    """Tries one instruction in place of what stands at the PC."""
    at, flags, elr, spsr = pc(), value("$cpsr"), value("$ELR_EL1"), value("$SPSR_EL1")
    before = gdb.selected_inferior().read_memory(at, 4).tobytes()
    poke(at, code.to_bytes(4, "little"))
    run("set scheduler-locking on")
    try:
        try_it(at, flags)
    finally:
        poke(at, before)
        run(f"set $cpsr = {flags:#x}")
        run(f"set $pc = {at:#x}")
        run(f"set $ELR_EL1 = {elr:#x}")
        run(f"set $SPSR_EL1 = {spsr:#x}")
        run("set scheduler-locking replay")


@check("running", numbers=[20])
def a_step_over_wfi_ends():
    to_the_loop()

    def waits(at, flags):
        run("stepi")
        assert pc() == at + 4
        assert value("$cpsr") == flags

    with_instruction(0xD503207F, waits)


@check("running", numbers=[20])
def a_step_over_svc_and_a_faulting_load_keeps_the_mask_out_of_spsr():
    to_the_loop()

    def faults(back):
        def try_it(at, flags):
            run("stepi")
            assert pc() == value("$VBAR_EL1") + 0x200, hex(pc())
            assert value("$ELR_EL1") == at + back
            assert value("$SPSR_EL1") & 0x3C0 == flags & 0x3C0, hex(value("$SPSR_EL1"))

        return try_it

    with_instruction(0xD4000001, faults(4))
    # A BRK of the guest's own.
    with_instruction(0xD4200020, faults(0))
    x1 = value("$x1")
    run("set $x1 = 0x7fff0000")
    with_instruction(0xF9400021, faults(0))
    run(f"set $x1 = {x1:#x}")


@check("running")
def a_step_over_what_touches_the_mask_sees_none_of_it():
    to_the_loop()
    x1 = value("$x1")

    def reads(at, flags):
        run("stepi")
        assert value("$x1") == flags & 0x3C0, hex(value("$x1"))
        assert value("$cpsr") == flags

    # mrs x1, daif
    with_instruction(0xD53B4221, reads)

    def sets(at, flags):
        run("stepi")
        assert value("$cpsr") & 0x3C0 == flags & 0x3C0 | 0x80

    # msr daifset, #2
    with_instruction(0xD50342DF, sets)

    def clears(at, flags):
        run("stepi")
        assert value("$cpsr") & 0x3C0 == flags & 0x3C0 & ~0x80

    # msr daifclr, #2
    with_instruction(0xD50342FF, clears)

    def decides(at, flags):
        run("set $x1 = 0x80")
        run("stepi")
        assert value("$cpsr") & 0x3C0 == 0x80, hex(value("$cpsr"))

    # msr daif, x1
    with_instruction(0xD51B4221, decides)

    def returns(at, flags):
        run(f"set $ELR_EL1 = {at + 4:#x}")
        run(f"set $SPSR_EL1 = {flags & ~0x3C0 | 0x40:#x}")
        run("stepi")
        assert pc() == at + 4
        assert value("$cpsr") & 0x3C0 == 0x40, hex(value("$cpsr"))

    # eret
    with_instruction(0xD69F03E0, returns)
    run(f"set $x1 = {x1:#x}")


@check("running")
def memory_of_the_kernel_is_read_and_what_is_not_mapped_is_an_error():
    at = symbol(AGAIN)
    assert word(at) != 0
    try:
        word(0x0000_4444_0000_0000)
    except gdb.MemoryError:
        return
    raise AssertionError("an address that is not mapped was read")


@check("running", numbers=[21])
def kernel_memory_is_read_through_tables_of_each_granule():
    """A table that maps the RAM by one block is put into TTBR1_EL1: 1 GiB of 4 KiB granules, 32 MiB of 16, 512 MiB of 64."""
    ram, top = 0x4000_0000, 0x4000_0000 + 500 * 2**20
    control, before = value("$TCR_EL1"), value("$TTBR1_EL1")
    lent = phys(top)
    phys(top, ram | 0x701)
    try:
        # TCR_EL1.TG1 and T1SZ (Arm ARM DDI 0487, D24.2.185), and where the upper half begins with that size.
        for granule, size in ((0b10, 25), (0b01, 28), (0b11, 22)):
            run(f"set $TTBR1_EL1 = {top:#x}")
            run(f"set $TCR_EL1 = {control & ~(3 << 30 | 0x3F << 16 | 1 << 23) | granule << 30 | size << 16:#x}")
            lowest = 2**64 - 2 ** (64 - size)
            assert word(lowest + 0x20_0000) == phys(ram + 0x20_0000), f"TG1 {granule:#b}"
            try:
                word(lowest + 2**31)
            except gdb.MemoryError:
                continue
            raise AssertionError("an address that is not mapped was read")
    finally:
        phys(top, lent)
        run(f"set $TTBR1_EL1 = {before:#x}")
        run(f"set $TCR_EL1 = {control:#x}")


@check("running", numbers=[22])
def user_memory_is_read_through_ttbr0():
    """As of a process that does not run: its tables are put into TTBR0_EL1 while nothing does."""
    # 4 KiB of a table of level 0 and one of level 1, in RAM that nobody uses, and a block of 1 GiB that maps the RAM at 0.
    top = 0x4000_0000 + 500 * 2**20
    control = value("$TCR_EL1")
    size = control & 0x3F
    assert control >> 14 & 3 == 0, "granules of 4 KiB"
    block = 0x4000_0000 | 0x701
    level0 = size < 25
    lent = {at: phys(at) for at in (top, top + 4096)}
    phys(top, (top + 4096 | 3) if level0 else block)
    phys(top + 4096, block)
    before = value("$TTBR0_EL1")
    run(f"set $TTBR0_EL1 = {top:#x}")
    run(f"set $TCR_EL1 = {control & ~0x80:#x}")
    try:
        assert word(500 * 2**20 + 4096) == block
    finally:
        for at, text in lent.items():
            phys(at, text)
        run(f"set $TTBR0_EL1 = {before:#x}")
        run(f"set $TCR_EL1 = {control:#x}")


def phys(at, text=None):
    """A doubleword of physical memory, which is this from now on if it is given: with the MMU off an address is one."""
    control = value("$SCTLR_EL1")
    run(f"set $SCTLR_EL1 = {control & ~1:#x}")
    try:
        if text is not None:
            poke(at, text.to_bytes(8, "little"))
        return word(at)
    finally:
        run(f"set $SCTLR_EL1 = {control:#x}")


@check("running", numbers=[23])
def too_many_breakpoints_are_a_clear_error():
    at = symbol(AGAIN)
    for number in range(20):
        run(f"hbreak *{at + 0x1000 + 4 * number:#x}")
    try:
        run("stepi")
        run("continue")
    except gdb.error as error:
        # What is behind it is on standard error: gdb asks whether there may be too many.
        assert "aborted" in str(error), error
    else:
        raise AssertionError("there are not so many")
    finally:
        run("delete")


@check("running", numbers=[24])
def the_monitor_answers():
    assert "hold CPU" in run("monitor help")
    assert "CPU 1 is held" in run("monitor hold 1")
    run("thread 2")
    at = pc()
    run("thread 1")
    run(f"tbreak *{symbol(AGAIN):#x} thread 1")
    run("continue")
    run("thread 2")
    assert pc() == at, "a held CPU has moved"
    assert "held" in run("info threads")
    assert "goes on" in run("monitor release 1")
    assert "CPU 1 spins at" in run("monitor hold 1 spin")
    turns = word(symbol("TURNS") + 8) if GUEST == "payload" else None
    for _ in range(3):
        run("thread 1")
        run(f"tbreak *{symbol(AGAIN):#x} thread 1")
        run("continue")
    assert "CPU 1: spins at" in run("info threads")
    if turns is not None:
        assert word(symbol("TURNS") + 8) == turns, "a CPU that spins has taken a turn"
    run("monitor release 1")
    run("thread 1")
    assert "freeze or spin" in run("monitor hold 1 nonsense")
    assert "PMR" in run("monitor gic 0")
    assert "CNTVCT_EL0" in run("monitor time")
    assert "nobody" in run("monitor lock")
    # Linux has them online; the payload's do without a scenario.
    assert f"online: {'0-3' if GUEST == 'linux' else 'none'}, counted" in run("monitor stopmask")
    assert "CPU 3: pending" in run("monitor ipi")
    assert "CPU 2: empty" in run("monitor notes")
    assert "no scenario runs here" in run("monitor trace")
    run("monitor ring")
    assert "0x0040200000:" in run("monitor phys 0x40200000 16")
    assert "no such command" in run("monitor nonsense")


def resumed(how):
    """Resumes this thread alone by a packet of our own, as gdb would not."""
    answer = run(f"maintenance packet vCont;{how}:{gdb.selected_thread().num:x}")
    run("maintenance flush register-cache")
    assert "T05" in answer, answer


@check("running")
def a_range_is_stepped_by_the_stub():
    to_the_loop()
    start = pc()
    # Without lines of source gdb has no ranges of its own.
    resumed(f"r{start:x},{start + 16:x}")
    assert not start <= pc() < start + 16, hex(pc())


@check("running")
def a_load_exclusive_and_its_store_are_one_step():
    to_the_loop()
    at = pc()
    saved = {name: value(f"${name}") for name in ("x0", "x1", "x2", "sp")}
    # ldxr x1, [x0]; add x1, x1, #1; stxr w2, x1, [x0]; cbnz w2, .-12
    loop = (0xC85F7C01, 0x91000421, 0xC8027C01, 0x35FFFFA2)
    text = gdb.selected_inferior().read_memory(at, 16).tobytes()
    count = saved["sp"] - 64 & ~7
    under = word(count)
    poke(at, b"".join(code.to_bytes(4, "little") for code in loop))
    poke(count, bytes(8))
    run(f"set $x0 = {count:#x}")
    try:
        # A store may fail of itself, but not each time.
        for _ in range(1000):
            assert pc() == at
            resumed("s")
            assert pc() == at + 12, hex(pc())
            resumed("s")
            if pc() == at + 16:
                break
        assert pc() == at + 16 and word(count) == 1, f"{pc():#x}, {word(count)}"
    finally:
        poke(at, text)
        poke(count, under.to_bytes(8, "little"))
        for name, before in saved.items():
            run(f"set ${name} = {before:#x}")
        run(f"set $pc = {at:#x}")


@check("parked", numbers=[25])
def a_parked_cpu_has_a_backtrace_through_its_exception():
    run("continue")
    run(f"source {os.environ['ALIASES']}")
    for number in range(1, CPUS):
        run(f"hp cpu {number}")
        frames = run("hp bt")
        inner, exception, outer = frames.partition("el1h_64_irq ()")
        assert "cpu_park_loop ()" in inner or "local_cpu_stop ()" in inner, frames
        # An NMI may have come to a CPU that took an interrupt just then.
        assert exception and any(name in outer for name in OUTERMOST), frames
        assert "stopped, " in run("info threads")


@check("running", numbers=[6])
def ctrl_c_stops_every_vcpu():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    stop = stop_of("continue")
    assert isinstance(stop, gdb.SignalEvent) and stop.stop_signal == "SIGINT", stop
    listed = run("info threads")
    assert "(running)" not in listed, listed


def main():
    run("set confirm off")
    run("set pagination off")
    run("set architecture aarch64")
    run(f"file {os.environ['SYMBOLS']}")
    run(f"target remote {os.environ['WHERE']}")
    for function, numbers in CHECKS:
        what = function.__name__.replace("_", " ")
        try:
            function()
            print(f"ok {','.join(map(str, numbers))} {what}", flush=True)
        except (AssertionError, gdb.error, gdb.MemoryError) as error:
            print(f"not ok {what}: {error}", flush=True)
            run("delete")
    run("detach")
    print("detached", flush=True)


main()
