/*
 * Lets user-mode-linux run on processors with a large extended state (AMX).
 *
 * UML keeps 2696 bytes of floating point state per process, everything up to
 * PKRU, and writes that much back with PTRACE_SETREGSET(NT_X86_XSTATE). The
 * host's kernel refuses a write that is shorter than its own state
 * (xstateregs_set() in arch/x86/kernel/fpu/regset.c: EFAULT), which is 11008
 * bytes with AMX, and UML panics before its first process:
 * "ptrace set fp regs failed, errno = 14".
 *
 * Preloaded, this ptrace() hands such a write on in a buffer that is large
 * enough; ptrace_regset() in kernel/ptrace.c cuts it to the size it wants. On
 * other processors that changes nothing.
 *
 * Built without the C library's headers, which a machine may not have.
 */

#define SYS_PTRACE 101
#define PTRACE_PEEKTEXT 1
#define PTRACE_PEEKUSER 3
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE 0x202

/* XSTATE_BV, the set of components that the buffer holds, follows the 512
 * bytes of the legacy area. */
#define XSTATE_BV_OFFSET 512
/* XTILECFG and XTILEDATA, the components that lie behind what UML kept: marked
 * as in their initial state, since what follows is zero, not their content. */
#define XSTATE_BV_AMX (3UL << 17)

struct iovec {
	void *base;
	unsigned long len;
};

extern long syscall(long number, ...);
extern int *__errno_location(void);

/* Static, hence zero behind what is copied in; UML traces from one thread. */
static unsigned char whole[65536];

long ptrace(long request, int pid, void *addr, void *data)
{
	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
		struct iovec *given = data, full;
		unsigned char *from = given->base;
		unsigned long i, n = given->len;

		if (n > sizeof(whole))
			n = sizeof(whole);
		for (i = 0; i < n; i++)
			whole[i] = from[i];
		*(unsigned long *)(whole + XSTATE_BV_OFFSET) &= ~XSTATE_BV_AMX;
		full.base = whole;
		full.len = sizeof(whole);
		return syscall(SYS_PTRACE, request, (long)pid, addr, &full);
	}
	if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
		/* The system call stores the word, the C function returns it. */
		long word, result = syscall(SYS_PTRACE, request, (long)pid, addr, &word);

		if (result < 0)
			return result;
		*__errno_location() = 0;
		return word;
	}
	return syscall(SYS_PTRACE, request, (long)pid, addr, data);
}
