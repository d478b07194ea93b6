# For gdb, when it debugs a guest of Holdpoint: `source docs/holdpoint.gdb` (docs/debugging.md).

define-prefix hp
document hp
What a debugger of the stop path types often; `monitor help` has the rest.
end

define hp cpu
  eval "thread %d", $arg0 + 1
end
document hp cpu
hp cpu N: look at CPU N.
end

define hp bt
  python UNWINDER.use(True)
  backtrace
  python UNWINDER.use(False)
end
document hp bt
A backtrace that goes through exceptions and from one stack to another.
end

define hp stop
  info threads
  monitor lock
  monitor stopmask
  monitor ipi
end
document hp stop
Where every CPU is, who has the console, who is still to be stopped, and which requests are on their way.
end

define hp crash
  monitor notes
  monitor ring
end
document hp crash
What a crash leaves: the notes and the log.
end

# Functions of a kernel are unwound by their frame records, as the kernel does it (Linux arch/arm64/kernel/stacktrace.c): without debug
# information gdb has to guess where a function keeps its caller. An exception's entry has saved there what it has interrupted, as
# `struct pt_regs` begins: x0 to x30, sp, pc, pstate (arch/arm64/include/asm/ptrace.h). The payload's entries do the same at their sp.
python
import re
import struct

import gdb
import gdb.unwinder

ENTRY = re.compile(r"el[01][ht]_(64|32)_(sync|irq|fiq|error) ")
KERNEL = 0xFFFF << 48
HIGHEST = 0xFFFF_FFFF << 32
MASK = 2**64 - 1
REGISTERS = [f"x{number}" for number in range(31)] + ["sp", "pc"]
X29, PC = REGISTERS.index("x29"), REGISTERS.index("pc")


class Frame:
    """gdb takes a caller whose stack pointer is lower for a mistake, but a kernel has several stacks."""

    def __init__(self, frame):
        self.pc, self.sp = frame.read_register("pc"), frame.read_register("sp")
        if int(self.pc) & MASK >= KERNEL:
            self.sp = gdb.Value(HIGHEST + (frame.level() << 8)).cast(self.pc.type)


def doublewords(at, count):
    return struct.unpack(f"<{count}Q", gdb.selected_inferior().read_memory(at, 8 * count).tobytes())


def saved_by_kernel(record, caller):
    """What an entry has saved: the frame record lies behind it, how far depends on the version, and says the same."""
    for back in range(272, 360, 8):
        saved = doublewords(record - back, len(REGISTERS))
        if (saved[X29], saved[PC]) == caller:
            return saved
    return None


class Unwinder(gdb.unwinder.Unwinder):
    def __init__(self):
        super().__init__("holdpoint")
        self.asks = False
        # gdb would not know a frame again that it had in mind, for `finish` say.
        self.enabled = False

    def use(self, enabled):
        self.enabled = enabled
        gdb.invalidate_cached_frames()

    def __call__(self, frame):
        # The innermost frame is where the CPU is: its function may not have saved anything yet.
        if self.asks or frame.level() == 0:
            return None
        try:
            return self.unwind(frame)
        except gdb.MemoryError:
            return None

    def symbol(self, pc):
        # To print a symbol may need a frame.
        self.asks = True
        try:
            return gdb.execute(f"info symbol {pc}", to_string=True)
        finally:
            self.asks = False

    def unwind(self, frame):
        pc, sp, record = (int(frame.read_register(name)) & MASK for name in ("pc", "sp", "x29"))
        entry = ENTRY.match(self.symbol(pc))
        if pc >= KERNEL:
            caller = doublewords(record, 2)
            saved = saved_by_kernel(record, caller) if entry else None
            # Where it came from user space the record is empty, and there are no more frames.
            values = {"x29": caller[0], "pc": caller[1], "sp": record + 16}
        elif entry:
            saved = doublewords(sp, len(REGISTERS))
        else:
            return None
        if saved:
            values = dict(zip(REGISTERS, saved))
        unwound = frame.create_unwind_info(Frame(frame))
        for name, value in values.items():
            unwound.add_saved_register(name, gdb.Value(value).cast(frame.read_register(name).type))
        return unwound


UNWINDER = Unwinder()
gdb.unwinder.register_unwinder(None, UNWINDER, replace=True)
end
