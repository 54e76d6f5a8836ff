/*
 * The CNI executables `netspace` and `netspace-ipam`: hand one call to the agent, copy its answer.
 *
 * One program under two names; the base name it was called as is the plugin. What happens:
 *
 *   connect  to the agent's socket. Nobody there (ENOENT, ECONNREFUSED): execute the complete plugin,
 *            DIR/netspace-plugin/NAME, with the same arguments, environment and unread standard
 *            input, DIR being the folder of this executable. That is the only way to it: once there
 *            is a connection, whatever fails is an error, since the agent may have begun.
 *   send     the request, then keep the connection open both ways. The agent sees it end when this
 *            process is killed.
 *   receive  the answer, the whole of it before a byte goes to standard output.
 *
 * Frames, integers being 32 bits, little-endian (the agent's side: cni_plugins/frames.py):
 *
 *   request  "NSC1", length and bytes of the plugin's name, count of variables, for each its length
 *            and "CNI_NAME=value", length and bytes of standard input
 *   answer   "NSA1", exit status (0 or 1), length and bytes of standard output
 *
 * Standard input is read to one byte more than a configuration may have, for the agent to refuse. It
 * is not read for VERSION or from a terminal. All waiting together, for room in the socket's
 * backlog too, ends after WAIT_MS.
 *
 * Errors are CNI's: an object on standard output, exit status 1, a line on standard error. Codes: 4 a
 * variable over the limits, 5 input or output, 7 called by another name, 11 the agent did not answer
 * or nobody could. The object says cniVersion 1.0.0, whatever the configuration says: it is not
 * parsed here, and libcni looks at code, msg and details alone (pkg/types, Error).
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Tests alone compile other values in. */
#ifndef SOCKET_PATH
#define SOCKET_PATH "/run/netspace/cni.sock"
#endif
#ifndef WAIT_MS
#define WAIT_MS 90000
#endif

#define MAX_VARIABLES ((size_t)64)
#define MAX_VARIABLE ((size_t)64 << 10)
#define MAX_STDIN (((size_t)1 << 20) + 1)
#define MAX_ANSWER ((size_t)4 << 20)
#define ANSWER_HEAD ((size_t)12)
#define MAX_HEAD (64 + MAX_VARIABLES * (4 + MAX_VARIABLE))

enum { BAD_ENVIRONMENT = 4, IO_FAILURE = 5, INVALID_CONFIG = 7, TRY_AGAIN = 11 };

static const char *const plugins[] = { "netspace", "netspace-ipam" };
static const char *called_as = "netspace";
static int64_t deadline;

/* The request, then the answer: the one is sent before the other is received. */
static unsigned char buffer[MAX_HEAD + 4 + MAX_STDIN];
_Static_assert(sizeof buffer >= ANSWER_HEAD + MAX_ANSWER, "an answer fits");

static bool write_all(int to, const void *bytes, size_t length)
{
	const unsigned char *at = bytes;
	while (length > 0) {
		ssize_t written = write(to, at, length);
		if (written >= 0) {
			at += written;
			length -= (size_t)written;
		} else if (errno == EAGAIN) {
			(void)poll(&(struct pollfd){ .fd = to, .events = POLLOUT }, 1, -1);
		} else if (errno != EINTR) {
			return false;
		}
	}
	return true;
}

/* Answer with an error and end. `which` may have any bytes; `what` is text of this file. */
_Noreturn static void fail(int code, const char *what, const char *which, const char *why)
{
	char details[1024], text[1536];
	(void)snprintf(details, sizeof details, "%.500s%s%s", which, *which ? ": " : "", why);
	for (char *at = details; *at; at++)
		if (*at < ' ' || *at > '~' || *at == '"' || *at == '\\')
			*at = '?';
	(void)snprintf(text, sizeof text,
		       "{\"cniVersion\":\"1.0.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code,
		       what, details);
	(void)write_all(STDOUT_FILENO, text, strlen(text));
	(void)snprintf(text, sizeof text, "%s: %s: %s\n", called_as, what, details);
	(void)write_all(STDERR_FILENO, text, strlen(text));
	exit(EXIT_FAILURE);
}

_Noreturn static void no_answer(const char *why)
{
	fail(TRY_AGAIN, "the agent did not answer; whether it did what was asked is not known",
	     SOCKET_PATH, why);
}

static int64_t now_ms(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait until `fd` is ready, at most until the deadline. */
static bool wait_for(int fd, short events)
{
	for (;;) {
		int64_t left = deadline - now_ms();
		struct pollfd one = { .fd = fd, .events = events };
		int ready = left > 0 ? poll(&one, 1, (int)left) : 0;
		if (ready == 0)
			errno = ETIMEDOUT;
		if (ready >= 0 || errno != EINTR)
			return ready > 0;
	}
}

/* Streams that came closed are opened, so that no socket takes their number. */
static bool open_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return false;
	return true;
}

static const char *plugin_named(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	for (size_t i = 0; i < sizeof plugins / sizeof *plugins; i++)
		if (strcmp(base, plugins[i]) == 0)
			return plugins[i];
	fail(INVALID_CONFIG, "called by a name that is not netspace or netspace-ipam", base,
	     "install the executable under one of these names, and write it as the type");
}

/* A connection to the agent, or -1 where nobody listens. A full backlog is waited for. */
static int connect_to_agent(void)
{
	static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET_PATH };
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (agent < 0)
		fail(IO_FAILURE, "cannot make a socket", "", strerror(errno));
	for (;;) {
		int64_t left = deadline - now_ms();
		struct timeval wait = { .tv_sec = left / 1000, .tv_usec = left % 1000 * 1000 };
		if (left <= 0)
			fail(TRY_AGAIN, "the agent is too busy to take the call", SOCKET_PATH,
			     "its queue stayed full; netspace-agent status says what it does");
		if (setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) < 0)
			fail(IO_FAILURE, "cannot prepare the socket", "", strerror(errno));
		if (connect(agent, (const struct sockaddr *)&address, sizeof address) == 0)
			return agent;
		if (errno == ENOENT || errno == ECONNREFUSED)
			return -1;
		if (errno != EINTR && errno != EAGAIN)
			fail(IO_FAILURE, "cannot connect to the agent", SOCKET_PATH, strerror(errno));
	}
}

/* Execute the complete plugin in place of this process. */
_Noreturn static void execute(const char *plugin, char *argv[], char *const environment[])
{
	char path[PATH_MAX + 64];
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
	if (length <= 0 || length == PATH_MAX || path[0] != '/')
		fail(IO_FAILURE, "cannot tell where this executable lies", "/proc/self/exe",
		     length < 0 ? strerror(errno) : "no absolute path");
	path[length] = '\0';
	char *base = strrchr(path, '/') + 1;
	(void)snprintf(base, (size_t)(path + sizeof path - base), "netspace-plugin/%s", plugin);
	(void)execve(path, argv, environment);
	int why = errno;
	fail(TRY_AGAIN,
	     "the agent is not running, and the complete plugin cannot be executed; start netspace-agent",
	     path, strerror(why));
}

static unsigned char *put_length(unsigned char *at, size_t value)
{
	for (int shift = 0; shift < 32; shift += 8)
		*at++ = (unsigned char)(value >> shift);
	return at;
}

static size_t get_length(const unsigned char *at)
{
	return (size_t)at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
}

static unsigned char *put_bytes(unsigned char *at, const char *bytes, size_t length)
{
	at = put_length(at, length);
	memcpy(at, bytes, length);
	return at + length;
}

/* Write the request up to standard input, at most MAX_HEAD bytes. Returns its end, or NULL with
 * `over` the variable that passes a limit. */
static unsigned char *put_head(unsigned char *at, const char *plugin, char *const environment[],
			       char **over)
{
	memcpy(at, "NSC1", 4);
	at = put_bytes(at + 4, plugin, strlen(plugin));
	unsigned char *counted = at;
	size_t count = 0;
	at += 4;
	for (; *environment; environment++) {
		*over = *environment;
		if (strncmp(*environment, "CNI_", 4) != 0 || !strchr(*environment, '='))
			continue;
		size_t length = strlen(*environment);
		if (length > MAX_VARIABLE || count == MAX_VARIABLES)
			return NULL;
		at = put_bytes(at, *environment, length);
		count++;
	}
	(void)put_length(counted, count);
	return at;
}

static size_t read_stdin(unsigned char *into)
{
	size_t length = 0;
	while (length < MAX_STDIN) {
		if (!wait_for(STDIN_FILENO, POLLIN))
			fail(IO_FAILURE, "standard input does not end", "", strerror(errno));
		ssize_t got = read(STDIN_FILENO, into + length, MAX_STDIN - length);
		if (got == 0)
			break;
		if (got > 0)
			length += (size_t)got;
		else if (errno != EINTR && errno != EAGAIN)
			fail(IO_FAILURE, "standard input cannot be read", "", strerror(errno));
	}
	return length;
}

static void send_all(int agent, const unsigned char *at, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(agent, at, length, MSG_DONTWAIT);
		if (sent >= 0) {
			at += sent;
			length -= (size_t)sent;
		} else if (errno == EAGAIN ? !wait_for(agent, POLLOUT) : errno != EINTR) {
			no_answer(strerror(errno));
		}
	}
}

/* Whether `have` bytes are a whole answer (1), its beginning (0) or none (-1). A whole one's exit
 * status and length of standard output, which follows ANSWER_HEAD, are stored. */
static int whole_answer(const unsigned char *answer, size_t have, int *status, size_t *length)
{
	if (have < ANSWER_HEAD)
		return 0;
	size_t given = get_length(answer + 4), body = get_length(answer + 8);
	if (memcmp(answer, "NSA1", 4) != 0 || given > 1 || body > MAX_ANSWER)
		return -1;
	if (have - ANSWER_HEAD < body)
		return 0;
	*status = (int)given;
	*length = body;
	return 1;
}

/* Receive the answer into the buffer. Returns its exit status and stores the output's length. */
static int receive(int agent, size_t *length)
{
	size_t have = 0;
	int status = EXIT_FAILURE, found;
	while ((found = whole_answer(buffer, have, &status, length)) == 0) {
		if (!wait_for(agent, POLLIN))
			no_answer(strerror(errno));
		ssize_t got = recv(agent, buffer + have, ANSWER_HEAD + MAX_ANSWER - have, MSG_DONTWAIT);
		if (got > 0)
			have += (size_t)got;
		else if (got == 0)
			no_answer(have ? "it closed in the middle of its answer" : "it closed");
		else if (errno != EINTR && errno != EAGAIN)
			no_answer(strerror(errno));
	}
	if (found < 0)
		no_answer("what came is no answer; are agent and executable of one version?");
	return status;
}

int main(int argc, char *argv[])
{
	extern char **environ;
	const char *command = getenv("CNI_COMMAND");
	char *over = NULL;
	if (!open_streams())
		return EXIT_FAILURE;
	called_as = plugin_named(argc > 0 ? argv[0] : "");
	deadline = now_ms() + WAIT_MS;
	int agent = connect_to_agent();
	if (agent < 0)
		execute(called_as, argv, environ);
	/* Not before: the complete plugin begins with the signals as they came. */
	(void)signal(SIGPIPE, SIG_IGN);
	unsigned char *end = put_head(buffer, called_as, environ, &over);
	if (!end) {
		over[strcspn(over, "=")] = '\0';
		fail(BAD_ENVIRONMENT, "a CNI variable is over 64 KiB, or there are over 64", over,
		     "shorten it, or leave it out");
	}
	bool unread = (command && strcmp(command, "VERSION") == 0) || isatty(STDIN_FILENO);
	size_t length = unread ? 0 : read_stdin(end + 4);
	(void)put_length(end, length);
	send_all(agent, buffer, (size_t)(end - buffer) + 4 + length);
	int status = receive(agent, &length);
	if (!write_all(STDOUT_FILENO, buffer + ANSWER_HEAD, length)) {
		(void)dprintf(STDERR_FILENO, "%s: standard output cannot be written: %s\n", called_as,
			      strerror(errno));
		return EXIT_FAILURE;
	}
	return status;
}
