/*
 * Feeds the launcher's two rules over foreign bytes, whole_answer() and put_head(), for as many
 * milliseconds as the argument says, from the seed that follows it. Every input lies in a piece of
 * memory of exactly its size, so that the sanitizers see a byte read or written beside it.
 */

int launcher_main(int argc, char *argv[]);

#define main launcher_main
#include "launcher.c"
#undef main

static uint64_t state;

static uint32_t any(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % below;
}

static void require(bool held, const char *what)
{
	if (!held) {
		(void)fprintf(stderr, "does not hold: %s\n", what);
		abort();
	}
}

static void answers(void)
{
	static const size_t interesting[] = { 0, 1, 2, 11, 255, MAX_ANSWER - 1, MAX_ANSWER,
					      MAX_ANSWER + 1, 0x7fffffff, 0x80000000, 0xffffffff,
					      0xfffffff4 };
	size_t have = any(40), choices = sizeof interesting / sizeof *interesting;
	unsigned char *bytes = malloc(have ? have : 1), head[ANSWER_HEAD];
	require(bytes != NULL, "memory");
	memcpy(head, "NSA1", 4);
	(void)put_length(head + 4, any(2) ? any(3) : interesting[any((uint32_t)choices)]);
	(void)put_length(head + 8, any(2) ? any(40) : interesting[any((uint32_t)choices)]);
	for (size_t i = 0; i < have; i++)
		bytes[i] = i < sizeof head ? head[i] : (unsigned char)any(256);
	if (have && any(4) == 0)
		bytes[any((uint32_t)have)] = (unsigned char)any(256);
	int status = -1;
	size_t length = SIZE_MAX;
	int found = whole_answer(bytes, have, &status, &length);
	if (found == 1) {
		require(memcmp(bytes, "NSA1", 4) == 0, "the magic");
		require(status == 0 || status == 1, "the status");
		require(length <= MAX_ANSWER && ANSWER_HEAD + length <= have, "the length");
	} else {
		require(status == -1 && length == SIZE_MAX, "nothing stored");
		require(found == 0 || have >= ANSWER_HEAD, "refused after its head alone");
		require(found != 0 || have < ANSWER_HEAD || get_length(bytes + 8) <= MAX_ANSWER,
			"too long a one is refused after its head");
	}
	free(bytes);
}

static void environments(void)
{
	static const char *const begins[] = { "CNI_", "CNI_ARGS=", "CNI", "PATH=", "", "=", "CNI_=" };
	char *environment[80];
	size_t count = any(10) ? any(8) : 60 + any(10), sent = 0, longest = 0, size = 0;
	bool far = any(50) == 0, ours = any(4) == 0;
	for (size_t i = 0; i < count; i++) {
		const char *begin = begins[ours ? 1 : any(7)];
		size_t start = strlen(begin), rest = far ? any(2 * (uint32_t)MAX_VARIABLE) : any(20);
		char *variable = malloc(start + rest + 1);
		require(variable != NULL, "memory");
		memcpy(variable, begin, start);
		for (size_t at = 0; at < rest; at++)
			variable[start + at] = (char)(any(6) ? 1 + (int)any(126) : '=');
		variable[start + rest] = '\0';
		environment[i] = variable;
		if (strncmp(variable, "CNI_", 4) == 0 && strchr(variable, '=')) {
			sent++;
			size += 4 + start + rest;
			longest = start + rest > longest ? start + rest : longest;
		}
	}
	environment[count] = NULL;
	bool fits = sent <= MAX_VARIABLES && longest <= MAX_VARIABLE;
	unsigned char *head = malloc(fits ? 4 + 4 + 8 + 4 + size : MAX_HEAD);
	require(head != NULL, "memory");
	char *over = NULL;
	const unsigned char *end = put_head(head, "netspace", environment, &over);
	require((end != NULL) == fits, "refused exactly over a limit");
	require(!end || (size_t)(end - head) == 4 + 4 + 8 + 4 + size, "the head's length");
	require(!end || get_length(head + 16) == sent, "the count");
	require(end || over, "what is over is named");
	free(head);
	for (size_t i = 0; i < count; i++)
		free(environment[i]);
}

int main(int argc, char *argv[])
{
	if (argc != 3)
		return 2;
	int64_t until = now_ms() + strtol(argv[1], NULL, 10);
	state = strtoull(argv[2], NULL, 10) | 1;
	unsigned long rounds = 0;
	for (; now_ms() < until; rounds++) {
		for (int i = 0; i < 100; i++)
			answers();
		environments();
	}
	(void)printf("%lu\n", rounds);
	return 0;
}
