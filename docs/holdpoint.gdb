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

# An exception's entry has no frame of its own. Linux and the payload save there what they have interrupted, as `struct pt_regs` begins:
# x0 to x30, sp, pc, pstate (Linux arch/arm64/include/asm/ptrace.h, arch/arm64/kernel/entry.S).
python
import re
import gdb
import gdb.unwinder

ENTRY = re.compile(r"el[01][ht]_(64|32)_(sync|irq|fiq|error) ")


class Frame:
    def __init__(self, sp, pc):
        self.sp = sp
        self.pc = pc


class Exceptions(gdb.unwinder.Unwinder):
    def __init__(self):
        super().__init__("holdpoint exceptions")
        self.busy = False

    def __call__(self, frame):
        # The innermost frame is where the CPU is: it may not have saved all yet.
        if self.busy or frame.level() == 0:
            return None
        pc = frame.read_register("pc")
        self.busy = True
        try:
            where = gdb.execute(f"info symbol {int(pc)}", to_string=True)
        finally:
            self.busy = False
        if not ENTRY.match(where):
            return None
        sp = frame.read_register("sp")
        saved = int(sp)
        names = [f"x{number}" for number in range(31)] + ["sp", "pc"]
        try:
            registers = gdb.selected_inferior().read_memory(saved, 8 * len(names)).tobytes()
        except gdb.MemoryError:
            return None
        unwound = frame.create_unwind_info(Frame(sp, pc))
        for number, name in enumerate(names):
            value = int.from_bytes(registers[8 * number : 8 * number + 8], "little")
            unwound.add_saved_register(name, gdb.Value(value).cast(frame.read_register(name).type))
        return unwound


gdb.unwinder.register_unwinder(None, Exceptions(), replace=True)
end
