// Drives resilience4j's circuit breaker through seeded worlds on a clock of its own, and writes what it did: one world a line
// (README.md beside this file has the format). Two runs write the same bytes.
//
// It stands in the library's package for one reason: SchedulerFactory below takes the place of the library's own, so that the longest
// stay in half-open ends by the worlds' clock. Everything else is the library as it was published.

package io.github.resilience4j.circuitbreaker.internal;

import io.github.resilience4j.circuitbreaker.CircuitBreaker.State;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig.SlidingWindowSynchronizationStrategy;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig.SlidingWindowType;
import io.github.resilience4j.core.IntervalFunction;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

public final class Replay {
    static final int WORLDS = 300;
    /** In each so many worlds two have a large window, where a rate is a share of up to a hundred calls, and more operations. */
    static final int LARGE_EVERY = 20;

    public static void main(String[] args) throws Exception {
        Map<String, Integer> census = new TreeMap<>();
        try (PrintStream out = new PrintStream(Files.newOutputStream(Path.of(args[0])), false, StandardCharsets.UTF_8)) {
            for (int world = 0; world < WORLDS; world++) {
                out.print(new World(world, census).run());
                out.print('\n');
            }
        }
        census.forEach((what, times) -> System.err.printf("%8d  %s%n", times, what));
    }
}

/** What a world's breaker is set to. */
final class Settings {
    static final double[] RATES = {0.01, 0.07, 0.1, 0.2, 0.25, 0.29, 0.3, 1.0 / 3.0, 0.4, 0.5, 0.57, 0.6, 2.0 / 3.0, 0.75, 0.9, 1.0};
    /** Of which, multiplied by so many calls, some come out a little above the whole number that they stand for. */
    static final double[] ROUNDED = {0.07, 0.07, 0.14, 0.14, 0.28, 0.28, 0.56, 0.57, 0.3};
    static final int[] SMALL = {1, 1, 2, 3, 4, 5, 6, 7, 10, 12, 20};

    final boolean time;
    final boolean large;
    final int size;
    final int minimumCalls;
    final double failureRate;
    final double slowCallRate;
    final long slowCallMs;
    final long recoveryMs;
    final int permits;
    /** 0: none. */
    final long halfOpenMs;
    /** 0: none. */
    final double multiplier;
    final long recoveryMaxMs;

    Settings(int world, Random chance) {
        time = world % 2 == 1;
        large = world % Replay.LARGE_EVERY < 2;
        if (large && !time) {
            size = pick(chance, 25, 50, 50, 100);
            minimumCalls = chance.nextBoolean() ? size : 25;
            failureRate = ROUNDED[chance.nextInt(ROUNDED.length)];
        } else if (time) {
            size = pick(chance, 1, 1, 2, 3, 5, 10, 10, 30, 60);
            minimumCalls = large ? 25 : pick(chance, 1, 2, 3, 4, 5, 8, 10);
            failureRate = large ? ROUNDED[chance.nextInt(ROUNDED.length)] : rate(chance, minimumCalls);
        } else {
            size = pick(chance, SMALL);
            // More than the window holds, now and then.
            minimumCalls = pick(chance, 1, 2, 3, size, Math.max(1, size - 1), size + 3, Math.max(1, size / 2), 5, 10);
            failureRate = rate(chance, Math.min(size, Math.max(minimumCalls, 1 + chance.nextInt(size))));
        }
        slowCallRate = large ? pick(chance, failureRate, 1.0) : pick(chance, failureRate, 0.3, 0.5, 2.0 / 3.0, 1.0, 1.0);
        slowCallMs = pick(chance, 1, 5, 50, 200, 200, 1000, 2500);
        recoveryMs = pick(chance, 1, 100, 999, 1000, 5000, 30_000, 60_000);
        permits = pick(chance, 1, 1, 2, 3, 4, 5, 10);
        halfOpenMs = pick(chance, 0, 0, 0, 0, 1, 250, 1000, 1000, 10_000, 10_000);
        if (chance.nextInt(4) == 0) {
            multiplier = pick(chance, 2.0, 3.0, 1.0);
            recoveryMaxMs = recoveryMs * pick(chance, 1, 3, 8, 60);
        } else {
            multiplier = 0;
            recoveryMaxMs = 0;
        }
    }

    /** A rate of people's, or one that so many calls can meet exactly. */
    static double rate(Random chance, int calls) {
        return chance.nextInt(3) == 0 ? RATES[chance.nextInt(RATES.length)] : (1 + chance.nextInt(calls)) / (double) calls;
    }

    static int pick(Random chance, int... from) {
        return from[chance.nextInt(from.length)];
    }

    static double pick(Random chance, double... from) {
        return from[chance.nextInt(from.length)];
    }

    CircuitBreakerConfig config(Clock clock) {
        CircuitBreakerConfig.Builder builder = CircuitBreakerConfig.custom()
            .clock(clock)
            .slidingWindowType(time ? SlidingWindowType.TIME_BASED : SlidingWindowType.COUNT_BASED)
            // The other strategy reads the machine's clock, whatever clock it is given.
            .slidingWindowSynchronizationStrategy(SlidingWindowSynchronizationStrategy.SYNCHRONIZED)
            .slidingWindowSize(size)
            .minimumNumberOfCalls(minimumCalls)
            .failureRateThreshold(percent(failureRate))
            .slowCallRateThreshold(percent(slowCallRate))
            .slowCallDurationThreshold(Duration.ofMillis(slowCallMs))
            .permittedNumberOfCallsInHalfOpenState(permits)
            .maxWaitDurationInHalfOpenState(Duration.ofMillis(halfOpenMs))
            .ignoreExceptions(Ignored.class);
        if (multiplier == 0) {
            builder.waitDurationInOpenState(Duration.ofMillis(recoveryMs));
        } else {
            builder.waitIntervalFunctionInOpenState(
                IntervalFunction.ofExponentialBackoff(Duration.ofMillis(recoveryMs), multiplier, Duration.ofMillis(recoveryMaxMs)));
        }
        return builder.build();
    }

    static float percent(double share) {
        return (float) (share * 100);
    }

    String json() {
        StringBuilder json = new StringBuilder("{\"policy\":\"").append(time ? "time" : "count").append('"');
        json.append(time ? ",\"window\":\"" + size + "s\"" : ",\"size\":" + size);
        json.append(",\"minimum_calls\":").append(minimumCalls);
        json.append(",\"failure_rate\":").append(failureRate).append(",\"slow_call_rate\":").append(slowCallRate);
        json.append(",\"slow_call_duration\":\"").append(slowCallMs).append("ms\"");
        json.append(",\"recovery_timeout\":\"").append(recoveryMs).append("ms\"");
        if (multiplier != 0) {
            json.append(",\"backoff_multiplier\":").append(multiplier);
            json.append(",\"recovery_timeout_max\":\"").append(recoveryMaxMs).append("ms\"");
        }
        json.append(",\"permits\":").append(permits).append(",\"half_open_failure_rate\":").append(failureRate);
        if (halfOpenMs != 0) {
            json.append(",\"half_open_timeout\":\"").append(halfOpenMs).append("ms\"");
        }
        return json.append('}').toString();
    }
}

/** One breaker, and what happens to it. */
final class World {
    static final long DAY_MS = 86_400_000;

    final Random chance;
    final Settings settings;
    final Map<String, Integer> census;
    final FakeClock clock;
    final CircuitBreakerStateMachine breaker;
    final List<Ask> pending = new ArrayList<>();
    final StringBuilder ops = new StringBuilder();
    final int length;
    final long t0;
    long written;
    long halfOpenSince;
    int asks;
    int refused;
    /** How likely the service fails and is slow for now, and for how many operations more it stays so. */
    double failing;
    double slowing;
    int mood;

    /** An admitted call whose verdict is yet to come. */
    record Ask(int id, long at, Object life) {}

    World(int world, Map<String, Integer> census) {
        this.census = census;
        chance = new Random(0x5eed_0000L + world);
        settings = new Settings(world, chance);
        t0 = 1_700_000_000_000L + (chance.nextInt(4) == 0 ? 1000L * chance.nextInt(1_000_000) : chance.nextInt(1_000_000_000));
        clock = new FakeClock(t0);
        written = t0;
        SchedulerFactory.clock = clock;
        SchedulerFactory.timers.clear();
        breaker = new CircuitBreakerStateMachine("world", settings.config(clock), SchedulerFactory.getInstance());
        length = settings.large ? 230 : 80 + chance.nextInt(45);
        breaker.getEventPublisher().onStateTransition(event -> {
            String how = SchedulerFactory.firing ? " by the longest stay" : "";
            count("transition " + word(event.getStateTransition().getFromState()) + " -> "
                + word(event.getStateTransition().getToState()) + how);
            if (event.getStateTransition().getToState() == State.HALF_OPEN) {
                halfOpenSince = clock.ms;
                // Whether the service is well again is one decision a round, so that rounds of several probes end either way.
                newMood();
                mood = settings.permits * 3;
            }
        });
        breaker.getEventPublisher().onFailureRateExceeded(event -> count("rate of failures exceeded"));
        breaker.getEventPublisher().onSlowCallRateExceeded(event -> count("rate of slow calls exceeded"));
    }

    String run() throws Exception {
        count("worlds, " + (settings.time ? "time" : "count"));
        for (int op = 0; op < length; op++) {
            step();
        }
        return "{\"t0\":" + t0 + ",\"breaker\":" + settings.json() + ",\"ops\":[" + ops + "]}";
    }

    void count(String what) {
        census.merge(what, 1, Integer::sum);
    }

    // ---- what happens next ------------------------------------------------------------------------------------------------------

    void step() throws Exception {
        if (mood-- <= 0) {
            newMood();
            mood = 5 + chance.nextInt(25);
        }
        State state = breaker.getState();
        if (chance.nextInt(150) == 0) {
            count("gaps of days");
            after(DAY_MS * (1 + chance.nextInt(9)) + chance.nextInt(3) - 1);
            ask();
        } else if (chance.nextInt(40) == 0 && force(state)) {
            count("forced by hand");
        } else {
            switch (state) {
                case OPEN -> open();
                case HALF_OPEN -> halfOpen();
                case FORCED_OPEN, DISABLED, METRICS_ONLY -> locked(state);
                case CLOSED -> closed();
            }
        }
    }

    void newMood() {
        failing = switch (chance.nextInt(4)) {
            case 0 -> settings.failureRate * 0.3;
            case 1 -> settings.failureRate;
            case 2 -> Math.min(1, settings.failureRate * 1.4 + 0.05);
            default -> chance.nextBoolean() ? 0 : 0.9;
        };
        slowing = switch (chance.nextInt(4)) {
            case 0 -> settings.slowCallRate;
            case 1 -> settings.slowCallRate * 0.5;
            default -> 0.05;
        };
    }

    void closed() {
        int inFlight = settings.large ? 1 : 4;
        if (!pending.isEmpty() && (pending.size() >= inFlight || chance.nextInt(100) < 60)) {
            settle();
        } else if (chance.nextInt(100) < 5) {
            after(edge());
            write("wait", null, null);
        } else {
            after(pause());
            ask();
        }
    }

    void open() throws Exception {
        long left = until() - clock.ms;
        int roll = chance.nextInt(100);
        if (roll < 12 && !pending.isEmpty()) {
            settle();
            return;
        }
        if (roll < 30) {
            after(left > 1 ? Math.floorMod(chance.nextLong(), Math.max(1, left / 2)) : 0);
        } else {
            // Just before its end, at its end, just after it, and long after.
            after(Math.max(0, left + Settings.pick(chance, -1, 0, 0, 1, 1, 1, 2, 1500)));
        }
        if (roll > 94) {
            write("wait", null, null);
        } else {
            long over = clock.ms - until();
            if (over >= -1 && over <= 1) {
                count("asked " + over + " ms after the open time's end");
            }
            ask();
        }
    }

    void halfOpen() {
        int roll = chance.nextInt(100);
        if (settings.halfOpenMs != 0 && roll < 9) {
            after(Math.max(0, halfOpenSince + settings.halfOpenMs - clock.ms + Settings.pick(chance, -1, 0, 0, 1)));
            if (roll < 3 && !pending.isEmpty()) {
                verdict(pending.remove(chance.nextInt(pending.size())));
            } else if (roll < 6) {
                ask();
            } else {
                write("wait", null, null);
            }
        } else if (roll < 60 && !pending.isEmpty()) {
            settle();
        } else if (roll < 97) {
            after(chance.nextInt(3) * chance.nextInt(40));
            ask();
        } else {
            after(edge());
            write("wait", null, null);
        }
    }

    void locked(State state) {
        int roll = chance.nextInt(100);
        if (roll < 12) {
            count("released by hand");
            after(pause());
            if (state == State.FORCED_OPEN) {
                breaker.transitionToHalfOpenState();
            } else {
                breaker.transitionToClosedState();
            }
            write("release", null, null);
        } else {
            closed();
        }
    }

    /** Whether there was something comparable to force. */
    boolean force(State from) {
        boolean backOff = settings.multiplier != 0;
        State to = State.values()[chance.nextInt(State.values().length)];
        boolean refused = switch (to) {
            case HALF_OPEN -> from == State.CLOSED || from == State.METRICS_ONLY;
            case OPEN -> from == State.METRICS_ONLY;
            default -> false;
        };
        if (refused) {
            return false;
        }
        // A lock counts among the attempts that lengthen the open time, or forgets them.
        if (backOff && (to == State.FORCED_OPEN || to == State.DISABLED || to == State.METRICS_ONLY)) {
            return false;
        }
        after(pause());
        switch (to) {
            case FORCED_OPEN -> breaker.transitionToForcedOpenState();
            case DISABLED -> breaker.transitionToDisabledState();
            case METRICS_ONLY -> breaker.transitionToMetricsOnlyState();
            case CLOSED -> breaker.transitionToClosedState();
            case OPEN -> breaker.transitionToOpenState();
            case HALF_OPEN -> {
                breaker.transitionToHalfOpenState();
                halfOpenSince = clock.ms;
            }
        }
        write("force:" + word(to), null, null);
        return true;
    }

    // ---- asks and verdicts ------------------------------------------------------------------------------------------------------

    void ask() {
        int id = ++asks;
        boolean admitted = breaker.tryAcquirePermission();
        if (admitted) {
            pending.add(new Ask(id, clock.ms, life()));
        } else {
            refused++;
            count("refused in " + word(breaker.getState()));
        }
        write("acq", id, Boolean.toString(admitted));
    }

    /** The verdict of a call under way, after as long as it takes. */
    void settle() {
        Ask ask = pending.remove(chance.nextInt(3) == 0 ? chance.nextInt(pending.size()) : 0);
        long slow = settings.slowCallMs;
        long took = chance.nextDouble() < slowing
            ? slow + Settings.pick(chance, 1, 1, 2, 700)
            : Settings.pick(chance, 0, 1, (int) slow / 2, (int) slow - 1, (int) slow, (int) slow);
        after(Math.max(0, Math.min(took, slow + 1000) - (clock.ms - ask.at)));
        verdict(ask);
    }

    void verdict(Ask ask) {
        long took = clock.ms - ask.at;
        String verdict = chance.nextInt(20) == 0 ? "ign" : chance.nextDouble() < failing ? "err" : "ok";
        if (ask.life != life()) {
            count("late verdicts");
            write(verdict, ask.id, "\"late\"");
            return;
        }
        State before = breaker.getState();
        if (!verdict.equals("ign") && Math.abs(took - settings.slowCallMs) <= 1) {
            count("took " + (took - settings.slowCallMs) + " ms more than slow_call_duration");
        }
        CircuitBreakerMetrics metrics = (CircuitBreakerMetrics) breaker.getMetrics();
        switch (verdict) {
            case "ok" -> breaker.onSuccess(took, TimeUnit.MILLISECONDS);
            case "err" -> breaker.onError(took, TimeUnit.MILLISECONDS, new RuntimeException());
            default -> breaker.onError(took, TimeUnit.MILLISECONDS, new Ignored());
        }
        boolean weighs = before == State.CLOSED || before == State.HALF_OPEN;
        if (weighs && !verdict.equals("ign") && metrics.getFailureRate() == Settings.percent(settings.failureRate)) {
            count("rate of failures exactly at its threshold, " + word(before));
        }
        if (weighs && !verdict.equals("ign") && metrics.getSlowCallRate() == Settings.percent(settings.slowCallRate)) {
            count("rate of slow calls exactly at its threshold, " + word(before));
        }
        write(verdict, ask.id, null);
    }

    // ---- time -------------------------------------------------------------------------------------------------------------------

    /** Lets so much time pass, and what is due in it happen. What is due at its very end happens before what is done then. */
    void after(long ms) {
        SchedulerFactory.runUntil(clock.ms + ms);
    }

    /** Between two operations of a breaker that is at work. */
    long pause() {
        if (!settings.time) {
            return chance.nextInt(4) == 0 ? 0 : chance.nextInt(60);
        }
        if (settings.large) {
            return chance.nextInt(1 + settings.size * 5);
        }
        return switch (chance.nextInt(8)) {
            case 0 -> 0;
            case 1 -> edge();
            default -> chance.nextInt(1 + settings.size * 1000 / Math.max(2, settings.minimumCalls * 2));
        };
    }

    /** To where a window of whole seconds has an edge, or a millisecond beside it. */
    long edge() {
        long second = 1000 - clock.ms % 1000;
        long seconds = chance.nextBoolean() ? 0 : settings.time ? settings.size - chance.nextInt(3) : chance.nextInt(3);
        return Math.max(0, second + seconds * 1000 + Settings.pick(chance, -1, 0, 0, 1));
    }

    // ---- what can be read off ---------------------------------------------------------------------------------------------------

    /** The state's object: each stay in a state has its own. */
    Object life() {
        try {
            Field field = CircuitBreakerStateMachine.class.getDeclaredField("stateReference");
            field.setAccessible(true);
            return ((AtomicReference<?>) field.get(breaker)).get();
        } catch (ReflectiveOperationException error) {
            throw new IllegalStateException("not the release that this was written for", error);
        }
    }

    /** The end of the open time. */
    long until() throws ReflectiveOperationException {
        Object open = life();
        Field field = open.getClass().getDeclaredField("retryAfterWaitDuration");
        field.setAccessible(true);
        return ((Instant) field.get(open)).toEpochMilli();
    }

    static String word(State state) {
        return switch (state) {
            case CLOSED -> "closed";
            case OPEN -> "open";
            case HALF_OPEN -> "half_open";
            case FORCED_OPEN -> "forced_open";
            case DISABLED -> "forced_closed";
            case METRICS_ONLY -> "metrics_only";
        };
    }

    void write(String op, Integer id, String result) {
        var metrics = breaker.getMetrics();
        if (ops.length() != 0) {
            ops.append(',');
        }
        ops.append('[').append(clock.ms - written).append(",\"").append(op).append("\",").append(id).append(',').append(result);
        ops.append(",\"").append(word(breaker.getState())).append("\",").append(metrics.getNumberOfBufferedCalls());
        ops.append(',').append(metrics.getNumberOfFailedCalls()).append(',').append(metrics.getNumberOfSlowCalls());
        ops.append(',').append(refused).append(']');
        written = clock.ms;
        count("operations");
    }
}

/** An error that says nothing of the service. */
final class Ignored extends RuntimeException {}

/** A clock that stands still until it is moved. */
final class FakeClock extends Clock {
    long ms;

    FakeClock(long ms) {
        this.ms = ms;
    }

    @Override
    public ZoneId getZone() {
        return ZoneOffset.UTC;
    }

    @Override
    public Clock withZone(ZoneId zone) {
        return this;
    }

    @Override
    public Instant instant() {
        return Instant.ofEpochMilli(ms);
    }
}

/** In the place of the library's own: what is scheduled happens when the worlds' clock gets there. */
class SchedulerFactory {
    static final List<Timer> timers = new ArrayList<>();
    static FakeClock clock;
    static boolean firing;
    private static final SchedulerFactory INSTANCE = new SchedulerFactory();

    record Timer(long at, Runnable task) {}

    public static SchedulerFactory getInstance() {
        return INSTANCE;
    }

    public ScheduledExecutorService getScheduler() {
        return proxy(ScheduledExecutorService.class, (method, args) -> {
            if (!method.equals("schedule")) {
                throw new UnsupportedOperationException(method);
            }
            Timer timer = new Timer(clock.ms + ((TimeUnit) args[2]).toMillis((Long) args[1]), (Runnable) args[0]);
            timers.add(timer);
            return proxy(ScheduledFuture.class, (asked, none) -> switch (asked) {
                case "cancel" -> timers.remove(timer);
                case "isDone" -> !timers.contains(timer);
                default -> throw new UnsupportedOperationException(asked);
            });
        });
    }

    static void runUntil(long end) {
        while (true) {
            Timer next = timers.stream().filter(timer -> timer.at <= end).min((a, b) -> Long.compare(a.at, b.at)).orElse(null);
            if (next == null) {
                break;
            }
            timers.remove(next);
            clock.ms = next.at;
            firing = true;
            next.task.run();
            firing = false;
        }
        clock.ms = end;
    }

    interface Answer {
        Object to(String method, Object[] args);
    }

    static <T> T proxy(Class<T> type, Answer answer) {
        return type.cast(Proxy.newProxyInstance(SchedulerFactory.class.getClassLoader(), new Class<?>[] {type},
            (self, method, args) -> answer.to(method.getName(), args)));
    }
}
