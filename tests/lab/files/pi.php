<?php
// Pi as the area under 4 / (1 + x^2), in n rectangles: work for the web server.
header('Content-Type: text/plain');
$n = max(1, min((int) ($_GET['n'] ?? 1000), 100000000));
$sum = 0.0;
for ($i = 0; $i < $n; $i++) {
    $x = ($i + 0.5) / $n;
    $sum += 4 / (1 + $x * $x);
}
echo "server: ", $_SERVER['SERVER_ADDR'], "\n";
printf("pi: %.12f\n", $sum / $n);
