#include "runtime/cli/interrupt.h"

#include <signal.h>
#include <stddef.h>

/* A signal handler has nothing but globals to write to. */
static volatile sig_atomic_t noted, hangups;

static void note(int signal_number)
{
    noted = signal_number;
}

void rt__interrupt_watch(void)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    noted = 0;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void rt__interrupt_unwatch(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    noted = 0;
}

int rt__interrupt_signal(void)
{
    return noted;
}

static void note_hangup(int signal_number)
{
    (void)signal_number;
    hangups = 1;
}

void rt__interrupt_watch_hangup(void)
{
    struct sigaction action = {.sa_handler = note_hangup, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    hangups = 0;
    sigaction(SIGHUP, &action, NULL);
}

bool rt__interrupt_hangup(void)
{
    bool came = hangups;
    hangups = 0;
    return came;
}
