<?php
// One fact a line, for people and for tests.
header('Content-Type: text/plain');
$cookies = [];
foreach ($_COOKIE as $name => $value) {
    $cookies[] = "$name=$value";
}
echo "Test page of the cluster\n";
echo "date: ", date('Y-m-d H:i:s'), "\n";
echo "server: ", $_SERVER['SERVER_ADDR'], "\n";
echo "client: ", $_SERVER['REMOTE_ADDR'], "\n";
echo "forwarded-for: ", $_SERVER['HTTP_X_FORWARDED_FOR'] ?? 'unknown', "\n";
echo "cookies: ", implode('; ', $cookies) ?: 'none', "\n";
