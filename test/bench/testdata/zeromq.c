// A publisher or a subscriber of the bus benchmark on ZeroMQ PUB/SUB with XPUB_NODROP; see busload.go for what it reads and
// says, and for the form of a message.
//
//	zeromq version | zeromq publish ENDPOINT SUBSCRIBERS | zeromq subscribe ENDPOINT
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

enum { SIZE = 64, BLOCK = 64, LAST = 1, STAMPED = 100000 };

struct message {
	uint32_t run, flags;
	uint64_t number, stamp;
	uint8_t rest[SIZE - 24];
};

static int64_t monotonic(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t at) {
	struct timespec t = {at / 1000000000, at % 1000000000};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void fail(const char *what) {
	fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
	exit(1);
}

static void put(void *s, struct message *m) {
	while (zmq_send(s, m, SIZE, 0) != SIZE)
		if (zmq_errno() != EINTR)
			fail("send");
}

static void run(void *s, uint32_t number, int64_t rate, int64_t ms) {
	struct message m = {.run = number};
	uint64_t sent = 0, total = rate ? (uint64_t)(rate * (ms / 1e3)) : UINT64_MAX;
	int64_t tick = rate && 1000000000 / rate >= 100000 ? 1000000000 / rate : 500000;
	int64_t began = monotonic(), next = began;
	while (sent < total) {
		int64_t now = monotonic();
		uint64_t due = BLOCK;
		if (rate) {
			due = 1 + (uint64_t)(rate * ((now - began) / 1e9));
			due = (due < total ? due : total) - sent;
		} else if (now - began >= ms * 1000000) {
			break;
		}
		for (; due > 0; due--) {
			if (rate && rate <= STAMPED && (due % BLOCK == 0 || m.stamp < (uint64_t)now))
				m.stamp = monotonic();
			m.number = sent++;
			put(s, &m);
		}
		if (rate) {
			next = next + tick > now ? next + tick : now;
			sleep_until(next);
		}
	}
	struct message last = {.run = number, .flags = LAST, .number = sent};
	put(s, &last);
	printf("sent %u %llu %lld\n", number, (unsigned long long)sent, (long long)(monotonic() - began));
	fflush(stdout);
}

static int publish(void *context, const char *endpoint, int subscribers) {
	void *s = zmq_socket(context, ZMQ_XPUB);
	int on = 1;
	if (zmq_setsockopt(s, ZMQ_XPUB_NODROP, &on, sizeof on) || zmq_setsockopt(s, ZMQ_XPUB_VERBOSE, &on, sizeof on) || zmq_bind(s, endpoint))
		fail(endpoint);
	for (int i = 0; i < subscribers; i++) {
		char b[8];
		if (zmq_recv(s, b, sizeof b, 0) < 0)
			fail("wait for subscribers");
	}
	puts("ready");
	fflush(stdout);
	char line[128];
	unsigned number;
	long long rate, ms;
	while (fgets(line, sizeof line, stdin))
		if (sscanf(line, "%u %lld %lld", &number, &rate, &ms) == 3)
			run(s, number, rate, ms);
	return 0;
}

static int by_size(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static void subscribe(void *context, const char *endpoint) {
	void *s = zmq_socket(context, ZMQ_SUB);
	if (zmq_setsockopt(s, ZMQ_SUBSCRIBE, "", 0) || zmq_connect(s, endpoint))
		fail(endpoint);
	puts("ready");
	fflush(stdout);
	uint32_t at = 0;
	uint64_t count = 0, misplaced = 0, next = 0;
	int64_t began = 0, *latency = NULL;
	size_t stamped = 0, room = 0;
	for (;;) {
		struct message m;
		int n = zmq_recv(s, &m, SIZE, 0);
		if (n < 0) {
			if (zmq_errno() == EINTR)
				continue;
			fail("receive");
		}
		if (n != SIZE || m.run < at)
			continue;
		if (m.run > at) {
			at = m.run;
			count = misplaced = next = 0;
			stamped = 0;
			began = monotonic();
		}
		if (m.flags & LAST) {
			long long p50 = 0, p99 = 0, took = monotonic() - began;
			if (stamped) {
				qsort(latency, stamped, sizeof *latency, by_size);
				p50 = latency[stamped / 2];
				p99 = latency[stamped * 99 / 100];
			}
			printf("got %u %llu %llu %llu %lld %lld %lld\n", at, (unsigned long long)count, (unsigned long long)m.number,
			       (unsigned long long)misplaced, took, p50, p99);
			fflush(stdout);
			continue;
		}
		if (m.number < next) {
			misplaced++;
		} else {
			count++;
			next = m.number + 1;
		}
		if (m.stamp) {
			if (stamped == room) {
				room = room ? 2 * room : 65536;
				if (!(latency = realloc(latency, room * sizeof *latency)))
					fail("memory");
			}
			latency[stamped++] = monotonic() - m.stamp;
		}
	}
}

int main(int argc, char **argv) {
	void *context = zmq_ctx_new();
	if (argc == 4 && !strcmp(argv[1], "publish"))
		return publish(context, argv[2], atoi(argv[3]));
	if (argc == 3 && !strcmp(argv[1], "subscribe"))
		subscribe(context, argv[2]);
	if (argc == 2 && !strcmp(argv[1], "version")) {
		int major, minor, patch;
		zmq_version(&major, &minor, &patch);
		printf("%d.%d.%d\n", major, minor, patch);
		return 0;
	}
	fputs("usage: zeromq version | zeromq publish ENDPOINT SUBSCRIBERS | zeromq subscribe ENDPOINT\n", stderr);
	return 2;
}
